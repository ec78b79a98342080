"use strict";
/* What a browser keeps of the form: what was written until this tab is closed, settings from one visit to the next. */
(() => {
  const { kept, field, type, uploadedAt } = darkroom;
  const WRITTEN = ["prompt", "negative_prompt", "seed", "loras", "controls"];
  const SETTINGS = "darkroom-settings";
  const EDITING = "editing";
  const EASEL = "easel";
  let recalled = false;

  const uploads = (name) => (field(name)?.value || "").split("\n").filter(Boolean).map(uploadedAt);

  function keep() {
    for (const name of WRITTEN) kept("sessionStorage", name, field(name)?.value || "");
    const { task } = document.documentElement.dataset;
    kept("sessionStorage", EASEL, JSON.stringify([task, uploads("image"), uploads("mask")[0]]));
  }

  function restore() {
    const [task, images, mask] = JSON.parse(kept("sessionStorage", EASEL) || "[]");
    if (task && task !== "text") darkroom.begin(task, images, mask);
    for (const name of WRITTEN) {
      const text = kept("sessionStorage", name);
      if (text && field(name) && ["", "[]"].includes(field(name).value)) type(field(name), text);
    }
  }

  /* Model, size and sliders as they were; the server looks at them before they stand in the form, see ui/desk. */
  function recall() {
    recalled = true;
    return [`[${kept("localStorage", SETTINGS) || "null"}, ${kept("sessionStorage", EDITING) || "null"}]`];
  }

  /* The first `lasting` of the values from one visit to the next; the others belong to the picture on the easel. */
  function remember(lasting, values) {
    if (!recalled) return []; // not before they were looked up
    kept("localStorage", SETTINGS, JSON.stringify(values.slice(0, lasting)));
    kept("sessionStorage", EDITING, JSON.stringify(values.slice(lasting)));
    return [];
  }

  /* The styles' names, and the same again once the page was loaded anew. */
  function styled(names) {
    if (names) kept("sessionStorage", "styles", JSON.stringify(names));
    return JSON.parse(kept("sessionStorage", "styles") || "[]");
  }

  /* What stands in the form when a picture's settings take its place, for Undo. */
  let form = [];
  function keepForm(...values) {
    form = values;
    return [];
  }
  const keptForm = () => form;

  window.addEventListener("pagehide", keep);
  Object.assign(darkroom, { restore, recall, remember, styled, keepForm, keptForm });
})();
