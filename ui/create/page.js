"use strict";
/* The live parts of the page. Each is given its element once, and draws itself anew whenever its value changes.
   Text from people and files is only ever set as textContent, pictures only as img.src. */
Object.assign(
  window.darkroom,
  (() => {
    const { $, write, make, arrange, kept, awaits } = darkroom;
    const help = HELP;
    const view = {
      jobs: [], // newest first: waiting, running, ended; as far back as the film was scrolled
      more: false, // there are older ones
      asking: null, // id of the job whose elders are awaited
      machine: null,
      plan: {},
      picked: null, // {job, index} of the film's frame that was clicked
      latest: null, // id of the job that last ran while this page was open
      seen: {}, // {job, preview} that came last: what a stopped run leaves to look at
      missed: 0, // beats of the server's pulse in a row
      stopping: new Set(), // ids of jobs that were asked to stop
      gone: false, // the server does not answer
      over: "", // why the server tells this page no more: it was "asleep" for too long, or is one of "too many"
      undoable: false, // settings of a picture took the place of others
      known: true, // this browser keeps our cookie
    };
    const parts = {};
    const endings = { one: "st", two: "nd", few: "rd", other: "th" };
    const kind = new Intl.PluralRules("en", { type: "ordinal" });
    const ordinal = (n) => (n === 1 ? "next" : n + endings[kind.select(n)]);
    const touch = () => matchMedia("(max-width: 960px)").matches;

    /* -- what is on the canvas ------------------------------------------------------------------------------- */

    const find = (id) => view.jobs.find((job) => job.id === id);
    const ended = (job) => job && !["queued", "running"].includes(job.status);
    const running = () => view.jobs.find((job) => job.status === "running");
    const waiting = () => view.jobs.filter((job) => job.status === "queued");
    const next = () => waiting().at(-1);
    const open = () => running() || next();

    /* The job on the canvas and which of its pictures: the picked one, else what runs or runs next, else the last. */
    function shown() {
      const picked = view.picked && find(view.picked.job);
      if (picked) return { job: picked, index: Math.min(view.picked.index, Math.max(picked.pictures.length - 1, 0)) };
      const job = open() || find(view.latest);
      return job ? { job, index: 0 } : null;
    }

    function words(job, index) {
      switch (job.status) {
        case "queued":
          return ["Waiting", `${job.place === 1 ? "Next" : ordinal(job.place)} in the queue`];
        case "running":
          if (view.stopping.has(job.id)) return ["Stopping", "After this step"];
          if (!job.step) return [job.doing || "Starting", "The picture follows"];
          return [job.doing || `Step ${job.step} of ${job.total}`, job.left ? `${job.left} left` : "Developing"];
        case "done":
          return [`Seed ${job.pictures[index]?.seed ?? ""}`, job.notice || job.facts];
        case "failed":
          return ["Not developed", job.facts];
        case "cancelled":
          return ["Stopped", job.step ? `At step ${job.step} of ${job.total}` : "Before it began"];
        default:
          return ["Interrupted", job.facts];
      }
    }

    const titled = (job) => job.title || "A picture without a prompt";

    /* What stands on the sheet in place of a picture. */
    function note(job) {
      if (job?.status === "failed") return job.error || "Something went wrong";
      return job?.status === "interrupted" ? job.error || "The server was stopped while it ran" : "";
    }

    /* -- stage: canvas, status and film ---------------------------------------------------------------------- */

    function stage(element, props, watch, trigger, upload) {
      parts.stage = element;
      parts.tell = trigger;
      darkroom.easel($(".easel", element), upload);
      element.addEventListener("click", clicked);
      $(".picture", element).addEventListener("click", enlarge);
      $(".picture", element).addEventListener("keydown", (event) => {
        if (!["Enter", " "].includes(event.key) || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        enlarge();
      });
      parts.end = new IntersectionObserver((seen) => seen.at(-1).isIntersecting && older(), {
        root: $(".film", element),
        rootMargin: "400px",
      });
      watch("value", () => {
        if (props.value.older) lengthen(props.value);
        else if (props.value.over) view.over = props.value.over;
        else follow(props.value);
        const now = running();
        if (now) view.latest = now.id;
        if (now?.preview) view.seen = { job: now.id, preview: now.preview };
        draw();
      });
      const picture = $(".picture", element);
      awaits(picture, (away) => {
        if (!away) draw();
        else if (!picture.src.startsWith("data:"))
          write($(".words span", element), "This picture's file cannot be read any more");
      });
      draw();
    }

    const read = (told) => told.map((job) => ({ ...job, pictures: Object.values(job.pictures) }));

    /* The server tells the newest; those that were scrolled back to before them stay. */
    function follow({ jobs: told, more, machine, known }) {
      const jobs = read(told);
      const newest = jobs.find(ended);
      if (view.machine && newest && !ended(find(newest.id))) view.latest = newest.id; // perhaps too quick to be seen running
      const last = view.jobs.findIndex((job) => job.id === jobs.at(-1)?.id);
      const elders = more && last >= 0 ? view.jobs.slice(last + 1) : [];
      view.jobs = [...jobs, ...elders];
      if (!elders.length) view.more = more;
      view.machine = machine;
      view.known = known;
    }

    function older() {
      const last = view.jobs.at(-1)?.id;
      if (!view.more || view.asking === last) return;
      view.asking = last;
      parts.tell("older", { before: last });
    }

    function lengthen({ before, older: elders }) {
      if (before !== view.jobs.at(-1)?.id) return;
      view.jobs = [...view.jobs, ...read(elders)];
      view.more = elders.length > 0;
      parts.last = null; // looked for anew, even if none of these has a frame
    }

    /* Pictures were deleted: of the newest the server tells, of their elders it does not. */
    function forget(ids) {
      const gone = new Set(ids);
      const kept = (job) => ({ ...job, pictures: job.pictures.filter((picture) => !gone.has(picture.id)) });
      view.jobs = view.jobs
        .map((job) => (job.pictures.some(({ id }) => gone.has(id)) ? kept(job) : job))
        .filter((job) => job.status !== "done" || job.pictures.length);
      draw();
    }

    function draw() {
      if (!parts.stage) return;
      const now = shown();
      drawSheet(now);
      drawStatus(now);
      drawStranger();
      drawFilm(now);
      drawTitle();
      drawMachine();
      document.documentElement.classList.toggle("busy", Boolean(open()));
      document.documentElement.classList.toggle("gone", view.gone);
    }

    const previewed = (job) =>
      job.preview || (job.status === "cancelled" && view.seen.job === job.id ? view.seen.preview : null);

    function drawSheet(now) {
      const root = parts.stage;
      const { width, height } = now ? now.job : view.plan;
      const sheet = $(".sheet", root);
      if (width && height) sheet.style.setProperty("--ar", width / height);
      sheet.dataset.status = now ? now.job.status : "idle";
      const source =
        now && (now.job.status === "done" ? `pictures/${now.job.pictures[now.index].id}` : previewed(now.job));
      const picture = $(".picture", root);
      picture.hidden = !source;
      if (source && picture.getAttribute("src") !== source) picture.setAttribute("src", source);
      const done = now?.job.status === "done";
      picture.alt = source ? titled(now.job) : "";
      picture.classList.toggle("preview", !done);
      picture.title = done ? "Look at it large" : "";
      picture.role = done ? "button" : "img";
      picture.tabIndex = done ? 0 : -1;
      $(".begin", root).hidden = Boolean(now);
      $(".note", root).hidden = !note(now?.job);
      write($(".note", root), note(now?.job));
      write($(".size", root), width ? `${width} × ${height}` : "");
      drawExamples($(".examples", root));
    }

    function drawExamples(list) {
      const examples = view.plan.examples || [];
      if (list.dataset.for === examples.join("\n")) return;
      list.dataset.for = examples.join("\n");
      $(".hint", parts.stage).hidden = !examples.length;
      list.replaceChildren(
        ...examples.map((prompt) => {
          const button = make("button", { type: "button", textContent: prompt });
          button.addEventListener("click", () => {
            darkroom.field("prompt").focus();
            darkroom.field("prompt").select();
            document.execCommand("insertText", false, prompt); // so that Ctrl+Z takes it back
          });
          return make("li", {}, button);
        }),
      );
    }

    function drawStatus(now) {
      const root = parts.stage;
      let [head, line] = now
        ? words(now.job, now.index)
        : [
            view.jobs.length ? "Ready" : "Nothing developed yet",
            `Write a prompt, then ${touch() ? "Generate" : "Ctrl + Enter"}`,
          ];
      if (darkroom.hint() && !open()) [head, line] = darkroom.hint();
      if (view.over === "too many")
        [head, line] = ["Too many pages are open", "Close some, then load this one again"];
      if (view.gone) [head, line] = ["The server does not answer", "The page goes on by itself once it is back"];
      write($(".words b", root), head);
      write($(".words span", root), line);
      const job = now?.job;
      const developing = job?.status === "running";
      $(".progress", root).style.setProperty("--done", developing ? job.step / job.total : 0);
      const behind = developing ? waiting().length : 0;
      $(".waiting", root).hidden = !behind;
      write($(".waiting span", root), `${behind} waiting after this`);
      $(".actions", root).hidden = !ended(job) && !view.undoable;
      $("[data-does=unuse]", root).hidden = !view.undoable;
      for (const does of ["use", "again"]) $(`[data-does=${does}]`, root).hidden = !ended(job);
      const download = $("[data-does=download]", root);
      download.hidden = job?.status !== "done";
      for (const send of root.querySelectorAll(".actions .send")) send.hidden = download.hidden;
      $("[data-does=before]", root).hidden = download.hidden || !job.source;
      if (!download.hidden) {
        download.href = `pictures/${job.pictures[now.index].id}?download=1`;
      }
      drawDock(open());
      announce(job, head, note(job) || line);
    }

    /* How far it is stands above the button, too, where the canvas may be out of sight. */
    function drawDock(job) {
      if (!parts.dock) return;
      const live = $(".live", parts.dock);
      $("#stop", parts.dock).disabled = Boolean(job) && view.stopping.has(job.id);
      write(live, job ? words(job, 0).join(" · ") : "");
      live.style.setProperty("--done", job?.step ? job.step / job.total : 0);
    }

    /* Where cookies are not kept, nothing that is made could come back. In a frame of another site that is often so. */
    function drawStranger() {
      const root = $(".stranger", parts.stage);
      root.hidden = view.known;
      $("a", root).hidden = window === window.top;
      $("span", root).hidden = window !== window.top;
      $("a", root).href = location.href;
    }

    /* For screen readers: a change of state at once, steps only every fifth part of the way. */
    function announce(job, head, line) {
      const fifth = job?.step ? Math.floor((job.step / job.total) * 5) : 0;
      const easel = (!open() && darkroom.hint()?.[0]) || "";
      const key = `${view.gone} ${view.over} ${job?.id} ${job?.status} ${job?.doing?.split(",")[0]} ${fifth} ${easel}`;
      const node = $(".announce", parts.stage);
      if (node.dataset.key === key) return;
      node.dataset.key = key;
      node.textContent = `${head}. ${line}`;
    }

    function drawTitle() {
      const now = running();
      if (now) document.title = now.step ? `${now.step}/${now.total} · Darkroom` : "Loading · Darkroom";
      else if (document.hidden && parts.busy) document.title = "Done · Darkroom";
      else if (!document.title.startsWith("Done")) document.title = "Darkroom";
      parts.busy = Boolean(now);
    }

    /* -- film ------------------------------------------------------------------------------------------------ */

    function frames() {
      return view.jobs.flatMap((job) => {
        if (job.status === "cancelled") return [];
        return (job.pictures.length ? job.pictures : [null]).map((picture, index) => ({ job, picture, index }));
      });
    }

    function drawFilm(now) {
      const list = $(".film ol", parts.stage);
      const old = new Map([...list.children].map((item) => [item.dataset.key, item]));
      const items = frames().map((frame) => {
        const key = `${frame.job.id}/${frame.index}`;
        const item = old.get(key) || newFrame(key);
        drawFrame(item, frame, now && now.job.id === frame.job.id && now.index === frame.index);
        return item;
      });
      arrange(list, items);
      if (parts.last === items.at(-1)) return;
      parts.end.disconnect();
      parts.last = items.at(-1);
      if (parts.last) parts.end.observe(parts.last);
    }

    function newFrame(key) {
      const [img, badge] = [make("img", { alt: "", loading: "lazy" }), make("span")];
      awaits(img, (away) => {
        // deleted in another tab, or by hand
        img.hidden = away;
        write(badge, away ? "gone" : "");
      });
      const item = make("li", {}, make("button", { type: "button", className: "frame" }, img, badge, make("i")));
      item.dataset.key = key;
      return item;
    }

    const LABELS = {
      queued: "Waiting",
      running: "Developing",
      done: "Show",
      failed: "Failed",
      interrupted: "Interrupted",
    };

    /* There may be hundreds: of those that have ended, only what changed is written. */
    function drawFrame(item, { job, picture, index }, current) {
      const state = `${job.status} ${picture?.id} ${Boolean(current)} ${job.pictures.length}`;
      if (item.dataset.state === state && ended(job)) return;
      item.dataset.state = state;
      const [button, drop] = item.children;
      const [img, badge, bar] = button.children;
      item.dataset.status = job.status;
      const source = picture ? `pictures/${picture.id}/thumbnail` : job.preview;
      img.hidden = !source;
      if (source && img.getAttribute("src") !== source) img.setAttribute("src", source);
      const step = job.step ? `${job.step}/${job.total}` : "…";
      write(
        badge,
        { queued: ordinal(job.place), running: step, failed: "failed", interrupted: "paused" }[job.status] || "",
      );
      bar.style.setProperty("--done", job.status === "running" ? job.step / job.total : 0);
      const title = job.title || "no prompt";
      button.setAttribute(
        "aria-label",
        `${LABELS[job.status]}: ${title}${job.pictures.length > 1 ? `, picture ${index + 1}` : ""}`,
      );
      button.title = title;
      if (current) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
      const open = job.status === "queued" || job.status === "running";
      if (open && !drop) item.append(newCross(title));
      if (!open && drop) drop.remove();
    }

    const newCross = (title) =>
      make("button", { type: "button", className: "cross", title: "Cancel", ariaLabel: `Cancel: ${title}` });

    function clicked(event) {
      const item = event.target.closest(".film li");
      if (item && event.target.closest(".cross")) return cancel(item.dataset.key.split("/")[0]);
      if (item) return pick(...item.dataset.key.split("/"));
      if (event.target.closest(".all")) return cancelAll();
      const does = event.target.closest("button[data-does]")?.dataset.does;
      const now = shown();
      if (does === "unuse") {
        undoable(false);
        return parts.tell(does);
      }
      if (!does || !now || event.target.closest(".easel")) return undefined;
      if (["image", "inpaint", "control"].includes(does)) return darkroom.send(does, now.job.pictures[now.index].id);
      const picture = $(".picture", parts.stage);
      if (does === "before")
        return darkroom.before(now.job.pictures[now.index].id, picture.naturalWidth / picture.naturalHeight);
      if (does === "again" || does === "upscale") view.picked = null;
      if (does === "use") undoable(true);
      return parts.tell(does, { job: now.job.id, picture: now.job.pictures[now.index]?.id });
    }

    function undoable(can) {
      view.undoable = can;
      draw();
    }

    /* The one on the canvas, among the finished pictures of the film. */
    function enlarge() {
      const now = shown();
      if (now?.job.status !== "done") return;
      const done = frames().filter(({ job }) => job.status === "done");
      const at = done.findIndex(({ job, index }) => job.id === now.job.id && index === now.index);
      const pictures = done.map(({ job, picture }) => ({ url: `pictures/${picture.id}`, words: titled(job) }));
      darkroom.large(pictures, at, (to) => pick(done[to].job.id, done[to].index));
    }

    function pick(job, index) {
      view.picked = find(job)?.status === "running" ? null : { job, index: Number(index) };
      darkroom.look("picture");
      draw();
    }

    /* How long the prompt is, in its lower corner, and in how many chunks the model reads it; aloud if it is too long. */
    function tokens(element, props, watch) {
      const line = $(".count", element);
      watch("value", () => {
        const { tokens: count, chunks, room, most } = props.value;
        const over = chunks > most;
        line.classList.toggle("over", over);
        line.setAttribute("role", over ? "status" : "presentation");
        const read = over ? `${most * room} tokens: too long` : `${chunks * room} tokens`;
        write(line, count ? `${count} of ${read}${chunks > 1 && !over ? ` · ${chunks} chunks` : ""}` : "");
      });
    }

    /* -- dock, machine, theme -------------------------------------------------------------------------------- */

    function dock(element, props, watch, trigger) {
      parts.dock = element;
      $("#go", element).addEventListener("click", async () => {
        if (!(await darkroom.settled())) return darkroom.look("source"); // where it says so
        view.picked = null;
        undoable(false);
        darkroom.look("picture");
        if (touch()) scrollTo({ top: 0, behavior: "smooth" });
        trigger("generate");
      });
      $("#stop", element).addEventListener("click", stop);
      watch("value", () => {
        if (!parts.restored) darkroom.restore();
        parts.restored = true;
        view.plan = props.value;
        darkroom.outlook(view.plan);
        const line = $(".plan", element);
        line.classList.toggle("problem", Boolean(view.plan.problem));
        line.replaceChildren(
          ...(view.plan.words || [view.plan.problem || ""]).map((textContent) => make("span", { textContent })),
        );
        write($(".notes", element), view.plan.notes || "");
        draw();
      });
    }

    function stop() {
      if (open()) cancel(open().id);
    }

    function cancel(job) {
      view.stopping.add(job);
      parts.tell("cancel", { job });
      draw();
    }

    function cancelAll() {
      for (const job of [...waiting(), running()]) if (job) cancel(job.id);
    }

    function machine(element) {
      parts.machine = element;
      $("#help", element).addEventListener("click", () => darkroom.shortcuts());
      $(".chip", element).addEventListener("click", () => darkroom.openMachine());
      $("#theme", element).addEventListener("click", () => {
        const dark = !document.documentElement.classList.contains("dark");
        kept("localStorage", "darkroom-theme", dark ? "dark" : "light");
        paint();
      });
      draw();
    }

    function drawMachine() {
      if (!parts.machine || !view.machine) return;
      write($("b", parts.machine), view.machine.name);
      write($("span", parts.machine), view.machine.detail);
      $("meter", parts.machine).value = view.machine.used;
    }

    /* Gradio follows the system's theme on <body>; a person's own choice wins, on <html> too. */
    const system = matchMedia("(prefers-color-scheme: dark)");
    function paint() {
      const chosen = kept("localStorage", "darkroom-theme");
      const dark = chosen ? chosen === "dark" : system.matches;
      for (const node of [document.documentElement, document.body]) {
        if (node && node.classList.contains("dark") !== dark) node.classList.toggle("dark", dark);
      }
    }
    paint();
    system.addEventListener("change", paint);

    /* The seed of the picture on the canvas, for the form; what stands there stays if there is none. */
    function seed(now) {
      const on = shown();
      return on?.job.pictures[on.index]?.seed ?? now;
    }

    /* -- help, and the server's pulse ------------------------------------------------------------------------- */

    /* gradio's stream stays dead after a server was stopped, so the page loads anew once it is back. */
    async function pulse() {
      const alive = await fetch("livez", { signal: AbortSignal.timeout(8000) }).then(
        (answer) => answer.ok,
        () => false,
      );
      if (alive && (view.gone || view.over === "asleep")) location.reload();
      view.missed = alive ? 0 : view.missed + 1;
      view.gone = view.missed > 1;
      draw();
    }

    function tell(text, { left, bottom }) {
      const told = $("#told") || make("p", { id: "told", popover: "auto", role: "note" });
      if (!told.isConnected) document.body.append(told);
      told.textContent = text;
      Object.assign(told.style, { left: `${left}px`, top: `${Math.min(bottom + 4, innerHeight - 140)}px` });
      told.showPopover();
    }

    /* This script runs once the page is read, so there is a body already. */
    new MutationObserver(paint).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    setInterval(pulse, 5000);
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && document.title.startsWith("Done")) document.title = "Darkroom";
    });
    document.addEventListener("pointerover", (event) => {
      // a field's help, as the request declares it
      const field = event.target.closest?.("[id^=field-]");
      if (field && help[field.id] && !field.title) field.title = help[field.id];
    });
    document.addEventListener("click", (event) => {
      // where nothing hovers, its label tells it
      const label = event.target.closest?.("[id^=field-] [data-testid=block-info]");
      const text = label && help[label.closest("[id^=field-]").id];
      if (!text || matchMedia("(hover: hover)").matches) return;
      event.preventDefault(); // of the field, which would call the keyboard
      tell(text, label.getBoundingClientRect());
    });
    document.addEventListener("focusin", (event) => {
      const field = event.target.closest?.("[id^=field-]");
      if (field && help[field.id]) event.target.setAttribute("aria-description", help[field.id]);
    });

    const rescan = () => $("#rescan").click();

    return { stage, dock, machine, rescan, tokens, mark() {}, seed, forget, stop, touch, undoable, redraw: draw };
  })(),
);
