"use strict";
/* Keeping presets of one's own: the dialog; see cabinet.py. */
(() => {
  const { $, write, make } = darkroom;
  const WORDS = {
    styles: [
      "Save a style",
      "{prompt} is what stands in the prompt box. The style goes around it when you generate.",
    ],
    settings: [
      "Save these settings",
      "Model, size, steps, guidance, sampler and pictures, as they are now. No prompt, no seed.",
    ],
  };
  let root, tell;
  let now = { taken: {}, own: {}, problems: [] };
  let kind = "styles";
  let serial = 0;
  let asked = ""; // what the last question was: save or drop
  let overwrite = null; // the name that a second press may overwrite

  function presets(element, props, watch, trigger) {
    [root, tell] = [element, trigger];
    const dialog = $("dialog", root);
    watch("value", () => {
      for (const input of document.querySelectorAll("#styles input, #setting input")) input.placeholder = "None";
      now = props.value;
      write($(".problems", root), now.problems.join(" "));
      $(".problems", root).hidden = !now.problems.length;
      drawOwn();
      if (!now.serial || now.serial !== serial) return;
      if (now.problem) write($(".problem", root), now.problem);
      else if (asked === "save") dialog.close();
    });
    $("form", root).addEventListener("submit", (event) => {
      event.preventDefault();
      save(event.target.elements);
    });
    $("[value=cancel]", root).addEventListener("click", () => dialog.close());
    $("form", root).addEventListener("input", () => {
      overwrite = null;
      write($(".problem", root), "");
      write($(".strong", root), "Save");
    });
  }

  function keep(what) {
    kind = what;
    overwrite = null;
    const form = $("form", root);
    form.reset();
    form.elements.prompt.value = "{prompt}, ";
    const [title, hint] = WORDS[kind];
    write($("#keep-title", root), title);
    write($(".hint", root), hint);
    write($(".problem", root), "");
    write($(".strong", root), "Save");
    for (const label of root.querySelectorAll(".style")) label.hidden = kind !== "styles";
    drawOwn();
    $("dialog", root).showModal();
  }

  function save(fields) {
    const name = fields.name.value.trim();
    if (now.taken[kind].includes(name) && overwrite !== name) {
      overwrite = name;
      write($(".problem", root), `“${name}” is there already.`);
      write($(".strong", root), "Overwrite it");
      return;
    }
    send("save", {
      name,
      overwrite: overwrite === name,
      prompt: fields.prompt.value,
      negative_prompt: fields.negative_prompt.value,
    });
  }

  function send(does, values) {
    asked = does;
    serial += 1;
    tell(does, { kind, serial, ...values });
  }

  function drawOwn() {
    const names = now.own[kind] || [];
    $(".own", root).hidden = !names.length;
    $(".own ul", root).replaceChildren(
      ...names.map((name) => {
        const cross = make("button", { type: "button", className: "close", ariaLabel: `Delete ${name}` });
        cross.addEventListener("click", () => send("drop", { name }));
        return make("li", {}, make("span", { textContent: name }), cross);
      }),
    );
  }

  Object.assign(darkroom, { presets, keep });
})();
