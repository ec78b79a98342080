"use strict";
/* The History page: what is shown and chosen there. Answers come as the gallery's value; see gallery.py. */
(() => {
  const { $, write, make, choices, arrange, awaits } = darkroom;
  const view = {
    rows: [], // newest first, as far as they have been asked for
    more: true, // there are older ones
    asking: null, // serial of the search whose answer is awaited
    serial: 0,
    chosen: new Set(), // ids
    at: null, // id of the tile that has the keyboard
    from: null, // id where a range of tiles began
  };
  let root, tell;

  const row = (id) => view.rows.find((one) => one.id === id);
  const tile = (id) => $(`#tile-${CSS.escape(id)}`, root);
  const chosen = () => view.rows.filter((one) => view.chosen.has(one.id));
  const url = (id) => `pictures/${id}`;
  const title = (one) => one.prompt || "No prompt";
  const clock = new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "short" });
  const when = (one) => clock.format(one.created * 1000);

  function gallery(element, props, watch, trigger) {
    [root, tell] = [element, trigger];
    watch("value", () => answered(props.value));
    const filter = (delay) => {
      clearTimeout(filter.timer);
      filter.timer = setTimeout(search, delay);
    };
    $(".tools", root).addEventListener("input", (event) => filter(event.target.name === "text" ? 250 : 0));
    $(".tools", root).addEventListener("submit", (event) => event.preventDefault());
    $(".grid", root).addEventListener("click", picked);
    $(".grid", root).addEventListener("dblclick", look);
    $(".grid", root).addEventListener("keydown", pressed);
    $(".grid", root).addEventListener("focusin", (event) => hold(event.target.dataset.id));
    $(".card", root).addEventListener("click", (event) => does(event.target.closest("[data-does]")?.dataset.does));
    $(".ask", root).addEventListener("close", (event) => event.target.returnValue === "delete" && change("remove"));
    $("iframe", root).addEventListener("load", refused);
    new IntersectionObserver(([end]) => end.isIntersecting && more(), { rootMargin: "400px" }).observe(
      $(".end", root),
    );
    new IntersectionObserver(([seen]) => seen.isIntersecting && view.rows.length && ask(null)).observe(root);
    draw();
  }

  /* -- asking and answers ----------------------------------------------------------------------------------- */

  function filters() {
    const form = $(".tools", root);
    const { text, checkpoint, task, favourites } = form.elements;
    return { text: text.value, checkpoint: checkpoint.value, task: task.value, favourites: favourites.checked };
  }

  function ask(before) {
    view.asking = ++view.serial;
    tell("search", { ...filters(), before, serial: view.asking });
  }

  function search() {
    [view.rows, view.more] = [[], true];
    choose([]);
    ask(null);
  }

  function more() {
    if (view.more && view.asking === null) ask(view.rows.at(-1)?.number ?? null);
  }

  function answered(answer) {
    if (!answer) return;
    view.problem = answer.problem;
    if (answer.kind === "page") shelve(answer);
    else if (answer.kind === "removed") drop(new Set(answer.ids));
    else
      answer.ids.forEach((id) => {
        if (row(id)) row(id).favourite = answer.on;
      });
    draw();
  }

  /* A page of older pictures goes to the end; the newest page goes before those that are there, if they meet. */
  function shelve(answer) {
    if (answer.serial !== view.asking) return;
    view.asking = null;
    if (answer.problem) {
      view.more = false;
      return;
    }
    const form = $(".tools", root);
    choices(form.elements.checkpoint, answer.choices.checkpoint);
    choices(form.elements.task, answer.choices.task);
    $(".room", root).hidden = !answer.room;
    write($(".room", root), answer.room);
    const known = new Set(view.rows.map((one) => one.id));
    const fresh = answer.rows.filter((one) => !known.has(one.id));
    if (answer.before !== null) [view.rows, view.more] = [[...view.rows, ...fresh], answer.more];
    else if (fresh.length < answer.rows.length) view.rows = [...fresh, ...view.rows];
    else [view.rows, view.more] = [answer.rows, answer.more];
    requestAnimationFrame(() => {
      // a page may be shorter than the screen
      if ($(".end", root).getBoundingClientRect().top < innerHeight + 400 && root.checkVisibility()) more();
    });
  }

  function drop(gone) {
    darkroom.forget(gone);
    const here = view.rows.findIndex((one) => gone.has(one.id));
    view.rows = view.rows.filter((one) => !gone.has(one.id));
    choose([]);
    const next = view.rows[Math.min(here, view.rows.length - 1)];
    draw();
    if (next && here >= 0) go(next.id);
  }

  /* -- choosing --------------------------------------------------------------------------------------------- */

  function choose(ids, from = ids.at(-1) ?? null) {
    view.chosen = new Set(ids);
    view.from = from;
  }

  function range(from, to) {
    const places = [from, to].map((id) => view.rows.findIndex((one) => one.id === id)).sort((a, b) => a - b);
    return view.rows.slice(Math.max(0, places[0]), places[1] + 1).map((one) => one.id);
  }

  function toggle(id) {
    const ids = new Set(view.chosen);
    if (!ids.delete(id)) ids.add(id);
    choose([...ids], id);
  }

  function picked(event) {
    const id = event.target.closest("[role=option]")?.dataset.id;
    if (!id) return;
    if (event.shiftKey && view.from) choose(range(view.from, id), view.from);
    else if (event.ctrlKey || event.metaKey || event.target.closest(".tick")) toggle(id);
    else choose([id]);
    go(id);
    draw();
  }

  function hold(id) {
    if (!id || view.at === id) return;
    const before = row(view.at);
    view.at = id;
    for (const one of [before, row(id)]) if (one && tile(one.id)) drawTile(tile(one.id), one);
  }

  function go(id) {
    hold(id);
    tile(id)?.focus({ preventScroll: false });
  }

  function pressed(event) {
    const id = view.at;
    if (!id || event.altKey) return;
    const wide = event.ctrlKey || event.metaKey;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns(), Home: -1e9, End: 1e9 }[
      event.key
    ];
    if (step) {
      const here = view.rows.findIndex((one) => one.id === id);
      const next = view.rows[Math.min(Math.max(here + step, 0), view.rows.length - 1)].id;
      if (event.shiftKey) choose(range(view.from ?? id, next), view.from ?? id);
      else if (!wide) choose([next]);
      go(next);
    } else if (event.key === " ") toggle(id);
    else if (event.key === "Enter" && !wide) {
      if (!view.chosen.size) choose([id]);
      look();
    } else if (event.key === "a" && wide) choose(view.rows.map((one) => one.id));
    else if (event.key === "Delete") does("remove");
    else if (event.key === "f" && !wide) does("favourite");
    else return;
    event.preventDefault();
    draw();
  }

  const columns = () => getComputedStyle($(".grid", root)).gridTemplateColumns.split(" ").length;

  /* Escape lets go of what is chosen before it stops a run. */
  window.addEventListener(
    "keydown",
    (event) => {
      if (event.key !== "Escape" || !view.chosen.size || $("dialog[open]") || !root.contains(document.activeElement))
        return;
      event.stopPropagation();
      choose([]);
      draw();
    },
    true,
  );

  /* -- doing ------------------------------------------------------------------------------------------------ */

  function does(what) {
    const ones = chosen();
    if (what === "close") choose([]);
    if (!ones.length || !what) return draw();
    const [one] = ones;
    if (what === "look") look();
    else if (what === "favourite") change("favourite", { on: !ones.every((each) => each.favourite) });
    else if (what === "remove") confirm(ones.length);
    else if (what === "compare")
      darkroom.beside(...ones.map((each) => ({ url: url(each.id), words: seed(each) })), one.width / one.height);
    else if (what === "before") darkroom.before(one.id, one.width / one.height);
    else if (what === "zip") zip(ones);
    else if (["image", "inpaint", "control"].includes(what)) darkroom.send(what, one.id);
    else if (what === "use" || what === "again" || what === "upscale") {
      tell(what, { job: one.job, picture: one.id });
      if (what === "use") darkroom.undoable(true);
      document.getElementById("create-button").click();
    }
    return draw();
  }

  const change = (what, more) => tell(what, { ids: [...view.chosen], serial: ++view.serial, ...more });

  function confirm(count) {
    write($(".ask h3", root), count > 1 ? `Delete ${count} pictures?` : "Delete this picture?");
    $(".ask", root).returnValue = "";
    $(".ask", root).showModal();
  }

  function look() {
    const [rows, [one]] = [view.rows, chosen()];
    if (!one) return;
    darkroom.large(
      rows.map((each) => ({ url: url(each.id), words: title(each) })),
      rows.indexOf(one),
      (at) => {
        hold(rows[at].id);
        choose([rows[at].id]);
        draw();
      },
    );
  }

  function zip(ones) {
    const form = $("form.zip", root);
    form.elements.ids.value = ones.map((one) => one.id).join(" ");
    form.submit();
  }

  /* A download leaves the frame empty; a page in it says why there is none. */
  function refused(event) {
    const text = event.target.contentDocument?.body?.textContent;
    if (!text) return;
    view.problem = text;
    draw();
  }

  const seed = (one) => one.facts.find(([name]) => name === "Seed")?.join(" ") || "";

  /* -- drawing ---------------------------------------------------------------------------------------------- */

  function draw() {
    drawGrid();
    drawCard();
    const count = view.rows.length;
    const words = view.chosen.size ? `${view.chosen.size} chosen` : count ? `${count}${view.more ? "+" : ""}` : "";
    write($(".count", root), view.problem || words);
    const asked = filters();
    const narrow = asked.text || asked.checkpoint || asked.task || asked.favourites;
    $(".none", root).hidden = Boolean(count || view.asking !== null || view.problem);
    write($(".none", root), narrow ? "No picture is like that." : "No pictures yet. What you generate is kept here.");
  }

  function drawGrid() {
    const grid = $(".grid", root);
    const old = new Map([...grid.children].map((item) => [item.dataset.id, item]));
    if (!row(view.at)) view.at = view.rows[0]?.id ?? null;
    arrange(
      grid,
      view.rows.map((one) => {
        const item = old.get(one.id) || newTile(one);
        drawTile(item, one);
        return item;
      }),
    );
    grid.hidden = !view.rows.length; // an empty list box is none
  }

  /* There may be thousands: only what changed is written. */
  function drawTile(item, one) {
    const state = `${view.chosen.has(one.id)} ${one.favourite} ${one.id === view.at}`;
    if (item.dataset.state === state) return;
    item.dataset.state = state;
    item.setAttribute("aria-selected", view.chosen.has(one.id));
    item.setAttribute("aria-label", `${title(one)}, ${when(one)}${one.favourite ? ", favourite" : ""}`);
    item.classList.toggle("favourite", one.favourite);
    item.tabIndex = one.id === view.at ? 0 : -1;
  }

  function newTile(one) {
    const image = make("img", { alt: "", loading: "lazy", decoding: "async", src: `${url(one.id)}/thumbnail` });
    awaits(image, (away) => item.classList.toggle("missing", away));
    const item = make(
      "li",
      { role: "option", id: `tile-${one.id}`, title: title(one) },
      image,
      make("span", { className: "tick" }),
      make("i"),
    );
    item.dataset.id = one.id;
    return item;
  }

  function drawCard() {
    const card = $(".card", root);
    const ones = chosen();
    const [one] = ones;
    card.hidden = !one;
    root.classList.toggle("choosing", ones.length > 0);
    if (!one) return;
    const single = ones.length === 1;
    const image = $(".look img", card);
    const source = single ? url(one.id) : "";
    if (image.getAttribute("src") !== source) image.setAttribute("src", source);
    image.style.aspectRatio = `${one.width} / ${one.height}`;
    write($(".title", card), single ? when(one) : `${ones.length} pictures`);
    write($(".prompt", card), single ? title(one) : "");
    write($(".negative", card), single && one.negative ? `Without: ${one.negative}` : "");
    drawMaps($(".maps", card), single ? one : { id: "", maps: 0 });
    darkroom.list($(".facts", card), single ? one.facts : []);
    const shown = {
      use: single,
      again: single,
      image: single,
      inpaint: single,
      control: single,
      upscale: single,
      before: single && one.source,
      download: single,
      zip: !single,
      compare: ones.length === 2,
      look: single,
    };
    for (const [name, on] of Object.entries(shown)) $(`[data-does=${name}]`, card).hidden = !on;
    $("[data-does=download]", card).href = `${url(one.id)}?download=1`;
    const loved = ones.every((each) => each.favourite);
    $("[data-does=favourite]", card).setAttribute("aria-pressed", loved);
  }

  /* What its ControlNets saw. */
  function drawMaps(node, one) {
    const sources = Array.from({ length: one.maps }, (_, index) => `${url(one.id)}/maps/${index}`);
    if (node.dataset.key === sources.join()) return;
    node.dataset.key = sources.join();
    node.replaceChildren(...sources.map((src, index) => make("img", { src, alt: `Control map ${index + 1}` })));
  }

  Object.assign(darkroom, { gallery });
})();
