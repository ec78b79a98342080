"use strict";
/* The ControlNet tab: up to four units, of which one is shown. Those that are on stand in the form as JSON, in the
   request's own shape; see units.py. Their pictures are uploaded as soon as they are there. */
(() => {
  const { $, write, make, field, isOf, type, uploadedAt, fetched, takes } = darkroom;
  const UNTIL = 250; // ms without a change, until the map is asked for
  const state = {
    units: [],
    at: 0, // the unit that is shown
    can: null, // what units can hold
    written: "[]", // what this script wrote into the form
    serial: 0,
  };
  let root, upload, tell;

  /* `values` are the request's own fields; `path` is where the server has the picture, `url` what is seen of it. */
  const fresh = () => ({ ...blank(), values: { ...defaults(), ...(fitting().length ? begin(fitting()[0]) : {}) } });
  const blank = () => ({ on: false, own: true, path: "", url: "", map: "", size: "", problem: "", serial: 0 });
  const defaults = () =>
    Object.fromEntries(
      Object.entries(state.can.fields)
        .filter(([name]) => name !== "image")
        .map(([name, field]) => [name, field.default]),
    );
  const unit = () => state.units[state.at];
  const network = (name) => state.can.networks.find((one) => one.name === name);
  const fitting = () => state.can.networks.filter((one) => one.fits);

  function steering(element, props, watch, trigger, uploads) {
    [root, upload, tell] = [element, uploads, trigger];
    watch("value", () => (props.value.fields ? know(props.value) : mapped(props.value)));
    element.addEventListener("click", clicked);
    takes(root, $("[name=control]", root), ([file]) => place(file));
    $("[name=on]", root).addEventListener("change", (event) => change(unit(), { on: event.target.checked }));
    document.addEventListener("input", (event) => {
      // the source picture and the size are the map's too
      if (isOf(event.target, "image", "task", "width", "height", "resize_mode")) ask();
    });
    new IntersectionObserver(([seen]) => seen.isIntersecting && ask()).observe(root);
  }

  function know(can) {
    const first = !state.can;
    state.can = can;
    if (first) build();
    state.units = Array.from({ length: can.most }, (_, index) => {
      const one = state.units[index];
      return one && (one.on || one.url) ? one : fresh();
    });
    $("[name=net]", root).replaceChildren(...networkChoices());
    if (first && state.written !== "[]") return restore(state.written); // it came before the tab's part
    draw();
    return ask();
  }

  /* -- pictures --------------------------------------------------------------------------------------------- */

  function place(chosen) {
    const one = unit();
    const placing = darkroom.fitted(chosen).then((file) => {
      URL.revokeObjectURL(one.url);
      change(one, { on: true, own: true, path: "", url: URL.createObjectURL(file) });
      return send(one, file);
    });
    darkroom.wait(placing);
    return placing;
  }

  /* Upload a unit's picture. Generate waits for it. Another that came meanwhile is not overwritten. */
  function send(one, file) {
    const { url } = one;
    const sent = (values) => {
      if (one.url === url) change(one, values);
    };
    const sending = upload(file).then(
      ({ path }) => sent({ path, problem: "" }),
      () => sent({ path: "", problem: "The server did not take this file; it may be too large" }),
    );
    darkroom.wait(sending);
    return sending;
  }

  /* A picture that is sent here goes to the first unit that has none. */
  function take(file) {
    const free = state.units.findIndex((one) => one.own && !one.url);
    if (free >= 0) state.at = free;
    return place(file);
  }

  /* -- the form --------------------------------------------------------------------------------------------- */

  function change(one, values) {
    Object.assign(one, values);
    fill();
    draw();
    ask(one);
  }

  const image = (one) => (!one.own ? null : one.path ? { path: one.path } : "");
  const told = (one) => ({ ...one.values, image: image(one) });

  function fill() {
    const text = JSON.stringify(state.units.filter((one) => one.on).map(told));
    const input = field("controls");
    if (state.written === text || !input) return;
    state.written = text;
    type(input, text);
  }

  /* What came into the form: an earlier job's units, their pictures by fingerprint, or this page's own from before it
     was loaded anew, their pictures as they were uploaded. */
  function steer(text) {
    if (text === state.written) return;
    state.written = text;
    if (state.can) restore(text);
  }

  function restore(text) {
    const given = JSON.parse(text || "[]");
    state.at = 0;
    state.units = state.units.map((_, index) => {
      if (!given[index]) return fresh();
      const { image: picture, ...values } = given[index];
      const url = picture?.path ? uploadedAt(picture.path) : picture ? `inputs/${picture}` : "";
      const one = { ...fresh(), on: true, own: picture !== null, url, values };
      if (picture)
        darkroom.wait(
          fetched(one.url).then(
            (file) => send(one, file),
            () => change(one, { url: "", problem: "The picture that it began from could not be fetched" }),
          ),
        );
      return one;
    });
    fill();
    draw();
    ask();
  }

  /* -- maps ------------------------------------------------------------------------------------------------- */

  function ask(one = unit()) {
    if (!one || one !== unit()) return;
    clearTimeout(state.timer);
    state.timer = setTimeout(() => {
      if (!root.checkVisibility()) return;
      one.serial = ++state.serial; // an answer that is still on its way is no longer wanted
      if (mapHint(one)) {
        Object.assign(one, { map: "", size: "" });
        draw();
        return;
      }
      tell("map", {
        unit: state.units.indexOf(one),
        serial: one.serial,
        control: { ...told(one), net: one.values.net || "none" },
      });
    }, UNTIL);
  }

  function mapped({ unit: index, serial, map = "", size = "", problem = "" }) {
    const one = state.units[index];
    if (one?.serial !== serial) return;
    Object.assign(one, { map, size, problem });
    draw();
  }

  const source = () => document.documentElement.dataset.task !== "text" && field("image")?.value;

  /* Why there can be no map yet. */
  function mapHint(one) {
    if (one.own) return one.path ? "" : one.url ? "Sending the picture" : "What the network will see";
    return source() ? "" : "Begin from a picture in Image to image or Inpaint";
  }

  /* -- what is seen ----------------------------------------------------------------------------------------- */

  const begin = (known) => ({ net: known.name, control_type: null, ...known.begins });

  function networkChoices() {
    const option = (one, more = "") =>
      make("option", {
        value: one.name,
        textContent: one.title + more,
        disabled: Boolean(more),
        title: one.problem || "",
      });
    const others = state.can.networks.filter((one) => !one.fits);
    const groups = fitting().map((one) => option(one));
    if (!groups.length) groups.push(make("option", { value: "", textContent: "No network for this model" }));
    if (others.length) {
      groups.push(
        make(
          "optgroup",
          { label: "Not with this model" },
          ...others.map((one) => option(one, one.problem ? " · cannot be used" : " · of another family")),
        ),
      );
    }
    return groups;
  }

  function build() {
    const { fields, preprocessors, control_types: types, most } = state.can;
    $(".units", root).replaceChildren(
      ...Array.from({ length: most }, (_, index) => {
        const button = make("button", { type: "button", textContent: String(index + 1) });
        button.dataset.unit = index;
        return button;
      }),
    );
    $(".rows", root).replaceChildren(
      segments("own", { label: "From", help: "Where the control picture comes from" }, [
        ["own", "Own picture"],
        ["source", "Source picture"],
      ]),
      choice("net", fields.net, []),
      choice(
        "preprocessor",
        fields.preprocessor,
        Object.entries(preprocessors).map(([name, row]) => [name, row.label]),
      ),
      choice("control_type", fields.control_type, [
        ["", "By the preprocessor"],
        ...types.map((type) => [type, capital(type)]),
      ]),
      ...["threshold_a", "threshold_b", "weight", "start", "end"].map((name) => slider(name, fields[name])),
      ...["resize_mode", "mode"].map((name) =>
        segments(
          name,
          fields[name],
          fields[name].choices.map((value) => [value, capital(value)]),
        ),
      ),
    );
  }

  const capital = (text) => text[0].toUpperCase() + text.slice(1);

  function row(name, { label, help }, ...parts) {
    const node = make("label", { title: help || "" }, make("span", { textContent: label }), ...parts);
    node.dataset.row = name;
    return node;
  }

  function choice(name, field, pairs) {
    const select = make(
      "select",
      { name },
      ...pairs.map(([value, textContent]) => make("option", { value, textContent })),
    );
    select.addEventListener("change", () => pick(name, select.value || null));
    return row(name, field, select);
  }

  function slider(name, field) {
    const [range, number] = ["range", "number"].map((type) =>
      make("input", { type, name, min: field.least, max: field.most, step: field.step }),
    );
    for (const input of [range, number]) {
      input.setAttribute("aria-label", field.label);
      input.addEventListener("input", () => input.value !== "" && pick(name, Number(input.value)));
    }
    return row(name, field, range, number);
  }

  function segments(name, field, pairs) {
    const group = make(
      "div",
      { role: "group", ariaLabel: field.label },
      ...pairs.map(([value, textContent]) => {
        const button = make("button", { type: "button", textContent });
        button.dataset.value = value;
        button.addEventListener("click", () =>
          name === "own" ? change(unit(), { own: value === "own" }) : pick(name, value),
        );
        return button;
      }),
    );
    const node = make("div", { title: field.help || "" }, make("span", { textContent: field.label }), group);
    node.dataset.row = name;
    return node;
  }

  function pick(name, value) {
    const values = { [name]: value };
    if (name === "net" && value) Object.assign(values, begin(network(value)));
    if (name === "preprocessor") Object.assign(values, { threshold_a: null, threshold_b: null });
    Object.assign(unit().values, values);
    change(unit(), {});
  }

  function clicked(event) {
    const button = event.target.closest("button");
    const does = button?.dataset.does;
    if (does === "choose") $("[name=control]", root).click();
    else if (does === "remove") change(unit(), { path: "", url: "", map: "", size: "", problem: "", on: false });
    else if (button?.dataset.unit) {
      state.at = Number(button.dataset.unit);
      draw();
      ask();
    }
  }

  function draw() {
    if (!state.can) return;
    const one = unit();
    state.units.forEach((each, index) => {
      const button = $(".units", root).children[index];
      button.setAttribute("aria-label", `Unit ${index + 1}${each.on ? ", on" : ""}`);
      button.setAttribute("aria-pressed", index === state.at);
      button.toggleAttribute("data-on", each.on);
    });
    $("[name=on]", root).checked = one.on;
    drawPictures(one);
    drawRows(one);
    const on = state.units.filter((each) => each.on);
    darkroom.chips(
      "control",
      on.map((each) => ({
        label: network(each.values.net)?.title || each.values.net || "no network",
        weight: each.values.weight,
        off: () => change(each, { on: false }),
      })),
    );
  }

  function drawPictures(one) {
    const [picture, map] = root.querySelectorAll(".sheet img");
    const seen = one.own ? one.url : darkroom.layer();
    show(picture, !one.own && !source() ? "" : seen);
    write(picture.nextElementSibling, one.own ? "Drop, paste or choose a picture" : "The picture on the canvas");
    $("[data-does=remove]", root).hidden = !one.own || !one.url;
    show(map, one.map);
    write(map.nextElementSibling, one.map ? "" : one.problem || mapHint(one));
    write($("figcaption small", root), one.map ? one.size : "");
  }

  function show(img, url) {
    img.hidden = !url;
    if (url && img.getAttribute("src") !== url) img.setAttribute("src", url);
  }

  function drawRows(one) {
    const { values } = one;
    const { thresholds, help } = state.can.preprocessors[values.preprocessor];
    const of = (name) => $(`[data-row=${name}]`, root);
    for (const name of ["net", "preprocessor", "control_type"]) $("select", of(name)).value = values[name] || "";
    of("preprocessor").title = help;
    of("control_type").hidden = !network(values.net)?.types;
    ["threshold_a", "threshold_b"].forEach((name, index) => {
      const own = thresholds[index];
      of(name).hidden = !own;
      if (!own) return;
      write($("span", of(name)), own.label);
      for (const input of of(name).querySelectorAll("input"))
        Object.assign(input, { min: own.lowest, max: own.highest, step: own.step, ariaLabel: own.label });
      set(of(name), values[name] ?? own.default);
    });
    for (const name of ["weight", "start", "end"]) set(of(name), values[name]);
    press(of("own"), one.own ? "own" : "source");
    for (const name of ["resize_mode", "mode"]) press(of(name), values[name]);
    of("resize_mode").hidden = !one.own;
  }

  function set(node, value) {
    for (const input of node.querySelectorAll("input"))
      if (Number(input.value) !== value || input.value === "") input.value = value;
    const range = $("[type=range]", node);
    darkroom.slid(range);
  }

  function press(node, value) {
    for (const button of node.querySelectorAll("button"))
      button.setAttribute("aria-pressed", button.dataset.value === value);
  }

  const steers = () => root.checkVisibility();

  Object.assign(darkroom, { steering, steers, steer, control: place, takeControl: take });
})();
