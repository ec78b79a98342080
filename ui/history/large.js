"use strict";
/* A picture over the whole window: arrows leaf, a click shows it pixel for pixel and back, Escape closes. */
(() => {
  const { $, make } = darkroom;
  const view = { pictures: [], at: 0, moved: null };
  let dialog;

  /* `pictures`: each {url, words}; `at` is the one that is shown. `moved` is told which was leafed to. */
  function large(pictures, at, moved) {
    Object.assign(view, { pictures, moved });
    dialog ??= built();
    show(at);
    dialog.showModal();
    $(".sheet", dialog).focus();
  }

  function built() {
    const image = make("img", { className: "sheet", tabIndex: 0 });
    const leaves = [["before", -1, "Newer picture"], ["next", 1, "Older picture"]].map(([className, by, ariaLabel]) => {
      const button = make("button", { type: "button", className, ariaLabel });
      button.addEventListener("click", () => leaf(by));
      return button;
    });
    const close = make("form", { method: "dialog" }, make("button", { className: "close", ariaLabel: "Close" }));
    const made = make("dialog", { id: "large", ariaLabel: "The picture, large" }, make("div", {}, image), ...leaves, close);
    image.addEventListener("load", () => {
      image.style.setProperty("--ar", image.naturalWidth / image.naturalHeight);
      image.style.setProperty("--pixels", `${image.naturalWidth}px`);
    });
    image.addEventListener("click", magnify);
    made.addEventListener("keydown", ({ key }) => leaf({ ArrowLeft: -1, ArrowRight: 1 }[key] || 0));
    document.body.append(made);
    return made;
  }

  function show(at) {
    view.at = at;
    const [image, { url, words }] = [$(".sheet", dialog), view.pictures[at]];
    dialog.classList.remove("pixels");
    image.src = url;
    image.alt = words;
    $(".before", dialog).hidden = !view.pictures[at - 1];
    $(".next", dialog).hidden = !view.pictures[at + 1];
  }

  function leaf(by) {
    if (!by || !view.pictures[view.at + by] || dialog.classList.contains("pixels")) return;
    show(view.at + by);
    view.moved(view.at);
  }

  /* What is under the pointer stays there. */
  function magnify(event) {
    const [image, room] = [event.target, event.target.parentElement];
    const [across, down] = [event.offsetX / image.clientWidth, event.offsetY / image.clientHeight];
    if (!dialog.classList.toggle("pixels")) return;
    room.scrollTo(across * image.clientWidth - event.clientX, down * image.clientHeight - event.clientY);
  }

  Object.assign(darkroom, { large });
})();
