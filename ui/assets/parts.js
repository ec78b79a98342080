"use strict";
/* What the scripts of the pages share. Text is only ever set as text. */
window.darkroom = (() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const write = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };

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
    node.replaceChildren(
      ...pairs.map(([name, text]) =>
        make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: text })),
      ),
    );
  }

  /* A select's choices after its first, which means any. What is chosen stays. */
  function choices(select, pairs) {
    const key = JSON.stringify(pairs);
    if (select.dataset.key === key) return;
    const { value } = select;
    select.dataset.key = key;
    select.replaceChildren(
      select.options[0],
      ...pairs.map(([of, label]) => make("option", { value: of, textContent: label })),
    );
    select.value = pairs.some(([of]) => of === value) ? value : "";
  }

  /* A slider's track is coloured up to its value. */
  const slid = (range) =>
    range.style.setProperty("--range_progress", `${(100 * (range.value - range.min)) / (range.max - range.min)}%`);

  /* The form is everybody's: its fields by name, those of the page and those that scripts alone write. */
  const field = (name) => $(`#field-${name} :is(textarea, input), #form-${name} textarea`);
  const isOf = (node, ...names) => names.some((name) => node.closest?.(`#field-${name}, #form-${name}`));

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

  const AGAIN_MS = 4000; // until a picture that did not come is asked for again
  const MOST_TRIES = 3; // of one that the server has and that does not come all the same

  /* Tells `away` of a picture that does not come, and if it comes later: the network may have been away for a moment.
     What the server has no more is not asked for again. */
  function awaits(image, away) {
    let [isAway, tries] = [false, 0];
    const tell = (now) => {
      if (now === isAway) return;
      isAway = now;
      away(now);
    };
    image.addEventListener("load", () => tell(false));
    image.addEventListener("error", async () => {
      const source = image.getAttribute("src");
      tell(true);
      let answer = null;
      while (!answer) {
        await new Promise((over) => setTimeout(over, AGAIN_MS));
        if (!image.isConnected || image.getAttribute("src") !== source) return;
        answer = await fetch(source, { method: "HEAD" }).catch(() => null);
      }
      if (!answer.ok || ++tries > MOST_TRIES) return;
      image.loading = "eager"; // hidden, it would wait to be seen
      image.src = source;
    });
  }

  /* `list` holds `items` in this order; those that stay are not touched, so what is in use there keeps its focus. */
  function arrange(list, items) {
    const staying = new Set(items);
    for (const item of [...list.children]) if (!staying.has(item)) item.remove();
    items.forEach((item, place) => {
      if (list.children[place] !== item) list.insertBefore(item, list.children[place] || null);
    });
  }

  /* Whether keys are text there, and no shortcuts. */
  const writes = (node) =>
    Boolean(
      node?.matches?.(
        "input:not([type=range], [type=radio], [type=checkbox], [type=color]), textarea, select, [contenteditable]",
      ),
    );

  /* What this browser keeps for us, or is to keep; nothing where it may not, as in a frame of another site. */
  const kept = (where, key, value) => {
    try {
      if (value === undefined) return window[where].getItem(key);
      window[where].setItem(key, value);
    } catch {
      /* it is forgotten */
    }
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

  return {
    $,
    write,
    make,
    list,
    choices,
    slid,
    field,
    isOf,
    type,
    uploadedAt,
    fetched,
    awaits,
    arrange,
    writes,
    kept,
    chooses,
    takes,
  };
})();
