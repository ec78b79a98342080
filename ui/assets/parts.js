"use strict";
/* What the scripts of the pages share. Text is only ever set as text. */
window.darkroom = (() => {
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

  /* Text into a field of the form, as if a person had written it. */
  function type(field, text) {
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  /* Where the page gets a file that was uploaded. */
  const uploadedAt = (path) => `gradio_api/file=${encodeURI(path)}`;

  async function fetched(url) {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
    return new File([await answer.blob()], "picture.png", { type: "image/png" });
  }

  /* `list` holds `items` in this order; those that stay are not touched, so what is in use there keeps its focus. */
  function arrange(list, items) {
    const staying = new Set(items);
    for (const item of [...list.children]) if (!staying.has(item)) item.remove();
    items.forEach((item, place) => { if (list.children[place] !== item) list.insertBefore(item, list.children[place] || null); });
  }

  /* Whether keys are text there, and no shortcuts. */
  const writes = (node) => Boolean(node?.matches?.("input:not([type=range], [type=radio], [type=checkbox], [type=color]), textarea, select, [contenteditable]"));

  /* What this browser keeps for us, or is to keep; nothing where it may not, as in a frame of another site. */
  const kept = (where, key, value) => {
    try {
      if (value === undefined) return window[where].getItem(key);
      window[where].setItem(key, value);
    } catch { /* it is forgotten */ }
    return null;
  };

  /* `take` gets the files that are chosen with `input`. */
  function chooses(input, take) {
    input.addEventListener("change", () => {
      if (input.files.length) take([...input.files]);
      input.value = ""; // the same file may be chosen again
    });
  }

  /* The same, and those that are dropped on `node`. */
  function takes(node, input, take) {
    for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
      node.addEventListener(kind, (event) => {
        event.preventDefault();
        node.classList.toggle("over", kind === "dragenter" || kind === "dragover");
        if (kind === "drop" && event.dataTransfer.files.length) take([...event.dataTransfer.files]);
      });
    }
    chooses(input, take);
  }

  return { $, write, make, list, choices, slid, type, uploadedAt, fetched, arrange, writes, kept, chooses, takes };
})();
