"use strict";
/* What the scripts of the pages share. Text is only ever set as text. */
Object.assign(window.darkroom, (() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const write = (node, text) => { if (node.textContent !== text) node.textContent = text; };

  function make(tag, values = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(values)) {
      if (name in node) node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  /* Pairs of label and text, as a description list. */
  function list(node, pairs) {
    const key = JSON.stringify(pairs);
    if (node.dataset.key === key) return;
    node.dataset.key = key;
    node.replaceChildren(...pairs.map(([name, text]) =>
      make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: text }))));
  }

  /* A select's choices after its first, which means any. What is chosen stays. */
  function choices(select, pairs) {
    const key = JSON.stringify(pairs);
    if (select.dataset.key === key) return;
    const { value } = select;
    select.dataset.key = key;
    select.replaceChildren(select.options[0], ...pairs.map(([of, label]) => make("option", { value: of, textContent: label })));
    select.value = pairs.some(([of]) => of === value) ? value : "";
  }

  /* A slider's track is coloured up to its value. */
  const slid = (range) => range.style.setProperty("--range_progress", `${(100 * (range.value - range.min)) / (range.max - range.min)}%`);

  return { $, write, make, list, choices, slid };
})());
