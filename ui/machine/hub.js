"use strict";
/* Get models: the catalogue, a button for each, and how far the download has come; see hub.py. */
(() => {
  const { $, write, make } = darkroom;
  const PAUSE = 500; // ms between two looks at a download

  function hub(element, props, watch, trigger) {
    const list = $("ul", element);
    let running = null; // its name
    setInterval(() => {
      if (running && !document.hidden) trigger("follow");
    }, PAUSE);
    list.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) trigger(running ? "halt" : "fetch", { name: button.closest("li").dataset.name });
    });
    watch("value", () => {
      const { models = [], offline = "" } = props.value || {};
      const now = models.find(({ state }) => state === "running")?.name || null;
      $(".part", element).hidden = !models.length;
      if (offline) write($(".none", element), offline);
      while (list.children.length < models.length) list.append(row());
      for (const [place, model] of models.entries()) draw(list.children[place], model, { now, offline });
      if (running && !now && models.find(({ name }) => name === running)?.has) darkroom.rescan();
      running = now;
    });
  }

  const row = () =>
    make(
      "li",
      {},
      make(
        "div",
        {},
        make("b"),
        make("span"),
        make("small", { className: "facts" }),
        make("small", { className: "told" }),
        make("progress", { max: 1 }),
      ),
      make("button", { type: "button" }),
    );

  function draw(item, { name, facts, use, has, state, share, words }, { now, offline }) {
    const [title, purpose, told, bar, button] = ["b", "span", ".told", "progress", "button"].map((part) =>
      $(part, item),
    );
    item.dataset.name = name;
    write(title, name);
    write(purpose, use);
    write($(".facts", item), facts);
    write(told, has || !state ? "" : state === "stopped" ? `Cancelled at ${words}` : words);
    bar.hidden = state !== "running";
    bar.value = share;
    bar.ariaLabel = `Download of ${name}`;
    button.disabled = has || Boolean(offline) || Boolean(now && now !== name);
    write(
      button,
      has ? "Here" : now === name ? "Cancel" : state === "stopped" || state === "failed" ? "Go on" : "Download",
    );
    button.ariaLabel = `${button.textContent}: ${name}`;
  }

  Object.assign(darkroom, { hub });
})();
