"use strict";
/* What the keyboard does anywhere on the page. */
(() => {
  const { $, make, isOf, writes } = darkroom;
  const SHORTCUTS = [
    ["Ctrl + Enter", "Generate"],
    ["Esc", "Stop"],
    ["Ctrl + ↑ ↓", "Weight of the word or selection"],
    ["B, E", "Brush, eraser"],
    ["Ctrl + Z", "Undo a stroke"],
    ["?", "This list"],
  ];

  function shortcuts() {
    let dialog = $("#shortcuts");
    if (!dialog) {
      const rows = SHORTCUTS.flatMap(([key, does]) => [
        make("dt", { textContent: key }),
        make("dd", { textContent: does }),
      ]);
      dialog = make("dialog", { id: "shortcuts", ariaLabel: "Shortcuts" }, make("dl", {}, ...rows));
      dialog.addEventListener("click", () => dialog.close());
      document.body.append(dialog);
    }
    dialog.showModal();
  }

  function generate(at) {
    if (!$("#go")?.checkVisibility()) return;
    if (at?.matches("[type=number]")) {
      // its value counts once it is left
      at.blur();
      at.focus();
    }
    $("#go").click();
  }

  /* "(words:1.1)": the selection, else the word at the cursor, by a tenth heavier or lighter; at 1 it is plain again. */
  function weigh(field, by) {
    const text = field.value;
    let [from, to] = [field.selectionStart, field.selectionEnd];
    const known = [...text.matchAll(/\(([^()]+):([\d.]+)\)/g)].find(
      (each) => each.index <= from && to <= each.index + each[0].length,
    );
    if (known) [from, to] = [known.index, known.index + known[0].length];
    else if (from === to) {
      from = text.slice(0, from).search(/[^\s,()]*$/);
      to += text.slice(to).search(/[\s,()]|$/);
    }
    const inner = known ? known[1] : text.slice(from, to);
    if (!inner.trim()) return;
    const weight = Math.max(0, Math.round((Number(known ? known[2] : 1) + by) * 100) / 100);
    field.setSelectionRange(from, to);
    document.execCommand("insertText", false, weight === 1 ? inner : `(${inner}:${weight})`); // so that Ctrl+Z takes it back
    from += weight === 1 ? 0 : 1;
    field.setSelectionRange(from, from + inner.length);
  }

  Object.assign(darkroom, { shortcuts });
  document.addEventListener(
    "keydown",
    (event) => {
      if (event.isComposing) return; // the key is an input method's
      const [at, wide, dialog] = [document.activeElement, event.ctrlKey || event.metaKey, $("dialog[open]")];
      if (event.key === "Tab" && at?.matches(".wrap-inner input")) {
        event.stopPropagation(); // else gradio opens the list that it left
        for (const options of document.querySelectorAll("ul[role=listbox]")) options.tabIndex = -1; // what scrolls is a stop of Tab's
      }
      if (event.key === "Enter" && wide) {
        event.preventDefault();
        if (!dialog && !event.repeat) generate(at);
      } else if (
        event.key === "Escape" &&
        !dialog &&
        !at?.matches("[type=search]") &&
        at?.getAttribute("aria-expanded") !== "true"
      ) {
        darkroom.stop();
      } else if (event.key === "?" && !writes(at) && !dialog) {
        shortcuts();
      } else if (
        ["ArrowUp", "ArrowDown"].includes(event.key) &&
        wide &&
        at &&
        isOf(at, "prompt", "negative_prompt")
      ) {
        event.preventDefault();
        weigh(at, event.key === "ArrowUp" ? 0.1 : -0.1);
      }
    },
    true,
  );
})();
