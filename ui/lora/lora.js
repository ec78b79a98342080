"use strict";
/* The LoRA tab: a list to search, switches, weights. What is on is the JSON in #form-loras, as the request has it. */
(() => {
  const { $, write, make, type, arrange } = darkroom;
  let root, props, follow;
  let on = []; // {name, weight, text_encoder_weight}
  let read = ""; // what of the form is drawn

  function lora(element, given, watch, trigger, upload) {
    [root, props, follow] = [element, given, (told) => trigger("follow", told)];
    watch("value", draw);
    root.addEventListener("input", (event) => {
      if (event.target.closest(".find")) draw();
    });
    const file = $("[type=file]", root);
    $(".add", root).addEventListener("click", () => file.click());
    file.addEventListener("change", async () => {
      const [chosen] = file.files;
      file.value = "";
      if (!chosen) return;
      tell(`Adding ${chosen.name} …`);
      try {
        const sent = await upload(chosen);
        trigger("keep", { path: sent.path, name: chosen.name });
      } catch {
        tell("The file could not be sent; it may be too large.");
      }
    });
    draw();
  }

  function tell(text) {
    const line = $(".told", root);
    line.hidden = !text;
    write(line, text || "");
  }

  /* What gradio holds in the form: after *Use settings* too. */
  function switched(text) {
    if (text === read) return;
    read = text;
    try {
      on = JSON.parse(text || "[]");
    } catch {
      on = [];
    }
    draw();
    darkroom.chips(
      "lora",
      on.map((each) => ({
        label: each.name,
        weight: each.weight ?? 1,
        off: () => change(each.name, null),
      })),
    );
  }

  /* Set a LoRA's values; null switches it off. */
  function change(name, values) {
    const now = on.find((each) => each.name === name);
    if (!values) on = on.filter((each) => each !== now);
    else if (now) Object.assign(now, values);
    else on = [...on, { name, weight: 1, ...values }];
    const loras = JSON.stringify(on);
    type(darkroom.field("loras"), loras);
    follow({ loras });
    switched(loras);
  }

  function draw() {
    if (!root) return;
    const { loras, mayAdd, problem, added } = props.value;
    $(".add", root).hidden = !mayAdd;
    tell(
      problem ||
        (added
          ? `${added} is added.`
          : loras.length
            ? ""
            : "There is no LoRA yet; put .safetensors files into models/loras."),
    );
    $(".find", root).hidden = !loras.length && !mayAdd;
    const asked = $("[type=search]", root).value.trim().toLowerCase();
    const fits = $("[name=fits]", root).checked;
    const seen = loras.filter(
      (each) =>
        isOn(each) ||
        (!(fits && each.misfit) &&
          `${each.name} ${each.words.join(" ")} ${each.notes}`.toLowerCase().includes(asked)),
    );
    seen.sort((a, b) => Boolean(a.problem || a.misfit) - Boolean(b.problem || b.misfit)); // what cannot be used is last
    const rows = new Map([...$("ul", root).children].map((row) => [row.dataset.key, row]));
    const at = document.activeElement.closest("#lora li [type=checkbox]")?.value; // its row may be made anew
    arrange(
      $("ul", root),
      seen.map((each) => {
        const key = JSON.stringify([each, Boolean(isOn(each))]);
        const row = rows.get(key) || newRow(each, key);
        return settle(row, isOn(each));
      }),
    );
    if (at && document.activeElement === document.body)
      [...root.querySelectorAll("li [type=checkbox]")].find((box) => box.value === at)?.focus();
  }

  const isOn = ({ name }) => on.find((each) => each.name === name);

  function newRow(each, key) {
    const box = make("input", {
      type: "checkbox",
      value: each.name,
      checked: Boolean(isOn(each)),
      disabled: Boolean(each.problem || each.misfit) && !isOn(each),
    });
    box.addEventListener("change", () => change(each.name, box.checked ? {} : null));
    const why = each.problem || each.misfit;
    const texts = [
      make("b", { textContent: each.name }),
      make("small", { textContent: why ? `${why[0].toUpperCase()}${why.slice(1)}` : each.facts }),
    ];
    const head = make("label", { title: each.notes }, box, picture(each), make("span", {}, ...texts));
    const row = make("li", { className: why ? "bad" : "" }, head);
    row.dataset.key = key;
    if (isOn(each)) row.append(slider(each, "weight", "Weight"), slider(each, "text_encoder_weight", "Text weight"));
    if (isOn(each) && each.report) row.append(make("p", { textContent: each.report, title: each.left.join("\n") }));
    if (isOn(each) && each.notes) row.append(make("p", { textContent: each.notes }));
    if (each.words.length && !why) row.append(words(each));
    return row;
  }

  function picture({ preview, name }) {
    return preview
      ? make("img", { src: preview, alt: "", loading: "lazy" })
      : make("i", { textContent: name.split("/").at(-1).slice(0, 1).toUpperCase() });
  }

  function slider(each, part, label) {
    const [min, max, step] = props.value.limits;
    const [least, most] = props.value.usual;
    const range = make("input", {
      type: "range",
      min: least,
      max: most,
      step,
      ariaLabel: `${label} of ${each.name}`,
    });
    const number = make("input", {
      type: "number",
      min,
      max,
      step,
      ariaLabel: `${label} of ${each.name}, as a number`,
    });
    for (const input of [range, number]) {
      input.dataset.part = part;
      input.addEventListener("change", () => {
        const value = Math.min(max, Math.max(min, Number(input.value) || 0));
        change(each.name, { [part]: input.value === "" && part !== "weight" ? undefined : value });
      });
    }
    range.addEventListener("input", () => {
      number.value = range.value;
      darkroom.slid(range);
    });
    return make("div", { className: "slide" }, make("span", { textContent: label }), range, number);
  }

  /* A row's sliders at what is on now; those of the text encoder follow the weight until they are moved. */
  function settle(row, values) {
    for (const input of row.querySelectorAll("[data-part]")) {
      const own = values?.[input.dataset.part];
      input.value = own ?? values?.weight ?? 1;
      if (input.type === "range") darkroom.slid(input);
    }
    return row;
  }

  function words(each) {
    const buttons = each.words.map((word) => {
      const button = make("button", { type: "button", textContent: word, title: "Add to the prompt" });
      button.addEventListener("click", () => {
        const prompt = darkroom.field("prompt");
        type(prompt, [prompt.value.trimEnd().replace(/,$/, ""), word].filter(Boolean).join(", "));
      });
      return button;
    });
    return make("div", { className: "words" }, ...buttons);
  }

  Object.assign(darkroom, { lora, switched });
})();
