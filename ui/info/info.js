"use strict";
/* The PNG info page: a dropped picture, and what the server read in it; see reader.py. */
(() => {
  const { $, write, list, takes } = darkroom;
  const NONE = "It says nothing about its making that Darkroom can read.";

  let waiting = null; // a picture that was given before the page was opened for the first time

  /* Read a picture that was given on another page. */
  function readInfo(file) {
    waiting = file;
    document.getElementById("png-info-button").click();
    darkroom.takeInfo?.();
  }

  function info(element, props, watch, trigger, upload) {
    let path = null;
    let asked = 0; // how many pictures were given; only the last one counts
    let busy = false;

    async function take(file) {
      if (!file) return;
      const mine = ++asked;
      show($("img", element), file);
      $("img", element)
        .decode()
        .catch(() => {
          $("img", element).hidden = mine === asked;
        });
      say("Reading …");
      path = null;
      draw(element, null);
      const sent = await upload(file).catch(() => null);
      if (mine !== asked) return;
      if (!sent) return say("The server did not take this file; it may be too large.");
      ({ path } = sent);
      trigger("read", { path });
    }

    function say(text, working = false) {
      busy = working;
      write($(".verdict", element), text);
      $("[data-does=replay]", element).disabled = busy;
    }

    takes($(".drop", element), $("input", element), ([file]) => take(file));
    darkroom.takeInfo = () => {
      take(waiting);
      waiting = null;
    };
    darkroom.takeInfo();
    $("[data-does=use]", element).addEventListener("click", () => {
      trigger("use", { path });
      darkroom.undoable(true);
      document.getElementById("create-button").click();
    });
    $("[data-does=replay]", element).addEventListener("click", () => {
      say("Starting …", true);
      trigger("replay", { path });
    });
    watch("value", () => {
      const answer = props.value;
      if (!answer || answer.path !== path) return; // of a picture that was here before
      if (answer.verdict) return say(answer.verdict, answer.busy);
      say(answer.problem || "");
      draw(element, answer.problem ? null : answer);
    });
  }

  function show(image, file) {
    if (image.src) URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(file);
    image.alt = file.name;
    image.hidden = false;
  }

  function draw(root, answer) {
    $(".right", root).hidden = !answer;
    $(".actions", root).hidden = !answer?.source;
    if (!answer) return;
    $("[data-does=replay]", root).hidden = !answer.replay;
    write($(".source", root), answer.source ? `Made with ${answer.source}` : NONE);
    write($(".prompt", root), answer.prompt);
    write($(".negative", root), answer.negative && `Without: ${answer.negative}`);
    write($(".missing", root), answer.missing);
    part(".settings", answer.facts);
    part(".unknown", answer.unknown);
    part(".made", answer.made_with);
    $(".prompts", root).hidden = !(answer.prompt || answer.negative);
    $(".raw", root).hidden = !answer.text;
    write($("pre", root), answer.text);

    function part(name, pairs) {
      $(name, root).hidden = !pairs.length;
      list($(`${name} dl`, root), pairs);
    }
  }

  Object.assign(darkroom, { info, readInfo });
})();
