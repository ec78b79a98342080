"use strict";
/* What a browser keeps of the form: what was written until this tab is closed, settings from one visit to the next. */
(() => {
  const { $, kept, type } = darkroom;
  const WRITTEN = [...["prompt", "negative_prompt", "seed"].map((name) => `#field-${name} textarea`), "#form-loras textarea"];
  const SETTINGS = "darkroom-settings";
  let recalled = false;

  function keep() {
    for (const field of WRITTEN) kept("sessionStorage", field, $(field)?.value || "");
  }

  function restore() {
    for (const field of WRITTEN) {
      const text = kept("sessionStorage", field);
      if (text && $(field) && ["", "[]"].includes($(field).value)) type($(field), text);
    }
  }

  /* Model, size and sliders as they were; the server looks at them before they stand in the form, see ui/run.py. */
  function recall() {
    recalled = true;
    return [kept("localStorage", SETTINGS) || ""];
  }

  function remember(...values) {
    if (recalled) kept("localStorage", SETTINGS, JSON.stringify(values)); // not before they were looked up
    return [];
  }

  window.addEventListener("pagehide", keep);
  Object.assign(darkroom, { restore, recall, remember });
})();
