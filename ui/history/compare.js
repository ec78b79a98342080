"use strict";
/* Two pictures in one place, and a slider that says where the second begins; see compare.py. */
(() => {
  const { $, write } = darkroom;
  const view = {
    pair: [],
    place: 50, // percent: where the second of them begins
  };
  let root, tell;

  function compare(element, _props, _watch, trigger) {
    [root, tell] = [element, trigger];
    $("input", root).addEventListener("input", (event) => {
      view.place = Number(event.target.value);
      tell("place");
    });
  }

  /* Show two pictures, each {url, words}; `ratio` is the width to the height of both. */
  function beside(one, other, ratio) {
    view.pair = [one, other].map(({ url }) => ({ path: url, url }));
    view.place = 50;
    $("input", root).value = 50;
    write($(".from", root), one.words);
    write($(".to", root), other.words);
    const pair = document.getElementById("pair"); // gradio may make it later than this dialog
    $(".two", root).append(pair);
    pair.style.setProperty("--ar", ratio);
    $("dialog", root).showModal();
    tell("pair");
    tell("place");
  }

  /* A result beside what it began from. */
  const before = (id, ratio) =>
    beside({ url: `pictures/${id}/source`, words: "Before" }, { url: `pictures/${id}`, words: "After" }, ratio);

  Object.assign(darkroom, {
    compare,
    beside,
    before,
    pair: () => [view.pair],
    place: () => [{ __type__: "update", slider_position: view.place }],
  });
})();
