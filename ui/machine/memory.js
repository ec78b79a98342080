"use strict";
/* The page This machine: what the server tells whenever the page is opened; see memory.py. */
(() => {
  const { $, list } = darkroom;

  function memory(element, props, watch, trigger) {
    $("[data-does=unload]", element).addEventListener("click", () => trigger("release"));
    watch("value", () => {
      const { device = [], loaded = [], run = [], models = [], unload = false } = props.value;
      list($(".device .facts", element), device);
      list($(".loaded .facts", element), loaded);
      list($(".run .facts", element), run);
      list($(".models .facts", element), models);
      $(".loaded", element).hidden = !unload;
      $(".loaded .none", element).hidden = loaded.length > 0;
      $(".loaded button", element).hidden = !loaded.length;
      $(".run", element).hidden = !run.length;
      $(".models", element).hidden = !models.length;
    });
  }

  /* The machine in the bar opens the page. */
  const open = () => document.getElementById("this-machine-button")?.click();

  Object.assign(darkroom, { memory, openMachine: open });
})();
