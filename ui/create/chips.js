"use strict";
/* The chips under the prompt: what is switched on in the tabs that add to every task, with a dot on those tabs. */
(() => {
  const { $, make } = darkroom;
  const shown = {}; // a tab's id (see tabs.py) -> its chips
  let root;

  function additions(element) {
    root = element;
    draw();
  }

  /* `list` is all that is on in the tab `kind`: {label, weight, off()} each; `off` switches it off. */
  function chips(kind, list) {
    shown[kind] = list;
    draw();
  }

  function draw() {
    if (!root) return;
    const items = Object.entries(shown).flatMap(([kind, list]) => {
      const tab = document.getElementById(`mode-${kind}-button`);
      tab.toggleAttribute("data-on", list.length > 0);
      return list.map((each) => chip(tab, each));
    });
    $("ul", root).replaceChildren(...items);
    document.getElementById("additions").toggleAttribute("data-some", items.length > 0);
  }

  function chip(tab, { label, weight, off }) {
    const name = make("button", { type: "button", className: "name", title: `Open ${tab.textContent.trim()}` });
    name.append(
      make("small", { textContent: tab.textContent.trim() }),
      make("span", { textContent: label }),
      make("b", { textContent: weight.toFixed(Number.isInteger(weight * 10) ? 1 : 2) }),
    );
    name.addEventListener("click", () => tab.click());
    const cross = make("button", {
      type: "button",
      className: "close",
      ariaLabel: `Switch off ${label}`,
      title: "Switch off",
    });
    cross.addEventListener("click", off);
    return make("li", {}, name, cross);
  }

  Object.assign(darkroom, { additions, chips });
})();
