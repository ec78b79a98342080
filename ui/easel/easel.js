"use strict";
/* The easel: the picture that a run begins from, on the canvas, with colours or a mask painted over it.
   It keeps everything at the picture's own size. What the server gets are files, uploaded as soon as a stroke ends;
   their paths stand in the form's hidden fields, see ui/desk/form.py. Generate waits for them, so no mask is ever stale. */
(() => {
  const { $, write, type, fetched, writes, chooses, takes } = darkroom;
  const PAINT = "#ff5a3c"; // the mask as it is seen; what counts is its alpha
  const STEPS_BACK = 20;
  const HINTS = {
    image: ["Begin from a picture", "Paint colours on it if you like"],
    inpaint: ["Paint what should change", "Everything else stays as it is"],
  };
  const SHOOTING = ["Press it to take the picture", "“Picture” or Esc closes the camera"];
  const UNSENT = ["Not sent", "Generate tries again; it may be too large"];
  const NEEDS = { text: [], image: ["image"], inpaint: ["image", "mask"] }; // the form's fields, by task
  const state = {
    task: "text",
    look: "picture", // or "source": what the canvas shows
    files: [], // the source pictures as they came; the first is on the easel
    soft: false, // the mask has greys of its own, from a file
    tool: "brush",
    zoom: 1,
    used: false, // the mask is shown as the engine will use it
    plan: {},
    back: [], // {layer, pixels, soft} before each stroke
    forth: [],
    most: Infinity, // pixels that the server takes
    smaller: false, // the picture had more
    pending: Promise.resolve(), // uploads, one after the other
    unsent: new Map(), // what the server did not take, by the form's field
  };
  let root, upload, layers;

  function easel(element, send) {
    [root, upload] = [element, send];
    layers = { image: $(".sketch", root), inpaint: $(".mask", root) };
    root.addEventListener("click", clicked);
    chooses($("[name=mask]", root), ([mask]) => readMask(mask));
    for (const layer of Object.values(layers)) wirePainting(layer);
    takes($(".board", root), $("[name=pictures]", root), place);
    wireMoving($(".board", root));
    wireCamera($("video", root));
    document.addEventListener("paste", (event) => given(event.clipboardData));
    document.addEventListener("dragover", (event) => {
      if (event.dataTransfer.types.includes("Files")) event.preventDefault(); // else the browser leaves for the file
    });
    document.addEventListener("drop", (event) => {
      if (event.defaultPrevented || !event.dataTransfer.files.length) return;
      event.preventDefault();
      given(event.dataTransfer);
    });
    document.addEventListener("keydown", pressed);
    document.addEventListener("input", (event) => {
      // what these change is seen on the source
      if (event.target.closest?.("#masking")) look("source");
    });
    root.parentElement.querySelector(".looks").addEventListener("click", (event) => {
      const chosen = event.target.closest("[data-look]")?.dataset.look;
      if (chosen) look(chosen);
    });
    draw();
  }

  /* A picture that was pasted, or dropped beside the places that take one: to steer with, to begin from, or to be read. */
  function given(data) {
    const files = [...(data?.files || [])];
    if (!files.length || $("dialog[open]")) return;
    if (darkroom.steers()) darkroom.control(files[0]);
    else if (state.task !== "text" && root.parentElement.checkVisibility()) place(files);
    else darkroom.readInfo(files[0]);
  }

  /* -- the source ------------------------------------------------------------------------------------------- */

  /* Generate waits until they are on the easel. */
  function place(chosen) {
    const placing = putUp(chosen);
    wait(placing);
    return placing;
  }

  async function putUp(chosen) {
    closeCamera();
    const files = [];
    for (const one of chosen) files.push(await fitted(one)); // in turns: many large ones at once would fill the memory
    state.smaller = files[0] !== chosen[0];
    state.files = files;
    [state.back, state.forth, state.soft] = [[], [], false];
    const image = $(".layers img", root);
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(files[0]);
    const readable = await image.decode().then(
      () => true,
      () => false,
    );
    if (!readable) {
      remove();
      return write($(".drop .hint", root), `${files[0].name} is no picture that can be read: PNG, JPEG or WebP`);
    }
    const [width, height] = [image.naturalWidth || 512, image.naturalHeight || 512];
    for (const layer of Object.values(layers)) [layer.width, layer.height] = [width, height]; // which clears them
    state.plan = {};
    send("mask", []);
    send("image", files);
    return look("source");
  }

  function remove() {
    closeCamera();
    state.files = [];
    [state.back, state.forth, state.plan] = [[], [], {}];
    $(".layers img", root).removeAttribute("src");
    send("mask", []);
    send("image", []);
    draw();
  }

  async function blank() {
    const value = (name) => Number(darkroom.field(name)?.value) || 512;
    const canvas = new OffscreenCanvas(value("width"), value("height"));
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    await place([await file(canvas)]);
  }

  async function sent(task, picture) {
    const drawn = await fetched(`pictures/${picture}`);
    document.getElementById("create-button")?.click();
    document.getElementById(`mode-${task}-button`)?.click();
    await (task === "control" ? darkroom.takeControl(drawn) : place([drawn]));
  }

  /* What an earlier job began from, by the fingerprints of its pictures. The field is emptied: it may come again. */
  function lay(text) {
    if (!text) return;
    fill("kept", "");
    const { task: wanted, image, mask } = JSON.parse(text);
    begin(wanted, image ? [`inputs/${image}`] : [], mask && `inputs/${mask}`);
  }

  /* With a task and with pictures that the server has. */
  function begin(wanted, images, mask) {
    if (wanted !== state.task) document.getElementById(`mode-${wanted}-button`)?.click();
    state.pending = state.pending.then(async () => {
      try {
        if (images.length) await place(await Promise.all(images.map(fetched)));
        if (mask) await readMask(await fetched(mask));
      } catch {
        remove();
        write($(".drop .hint", root), "The picture that it began from could not be fetched");
      }
    });
  }

  /* -- camera ------------------------------------------------------------------------------------------------- */

  function wireCamera(video) {
    video.addEventListener("click", shoot);
    video.addEventListener("keydown", (event) => event.key === "Enter" && shoot());
    new ResizeObserver(() => {
      // another look, tab or page leaves it without a size
      if (!video.checkVisibility()) closeCamera();
    }).observe(video);
    window.addEventListener(
      "keydown",
      (event) => {
        if (event.key !== "Escape" || video.hidden || $("dialog[open]")) return;
        event.stopPropagation(); // else it would stop a run, too
        closeCamera();
        $("[data-does=camera]", root).focus();
      },
      true,
    );
  }

  async function camera() {
    const video = $("video", root);
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: true });
    } catch {
      write($(".drop .hint", root), "There is no camera that this page may use");
      return;
    }
    closeCamera(); // the button was pressed twice
    [video.srcObject, video.hidden] = [stream, false];
    if (!$(".drop", root).checkVisibility()) return closeCamera(); // left while the browser asked
    video.play().catch(() => {}); // closed before it began
    video.focus();
    draw();
  }

  function closeCamera() {
    const video = $("video", root);
    if (video.hidden) return;
    for (const track of video.srcObject.getTracks()) track.stop();
    [video.srcObject, video.hidden] = [null, true];
    draw();
  }

  async function shoot() {
    const video = $("video", root);
    if (!video.videoWidth) return; // it has no picture yet
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    closeCamera();
    await place([await file(canvas)]);
  }

  /* -- files for the server ----------------------------------------------------------------------------------- */

  /* `chosen`, with no more pixels than the server takes. What is no picture comes back as it is. */
  async function fitted(chosen) {
    const picture = await createImageBitmap(chosen).catch(() => null);
    if (!picture) return chosen;
    const share = Math.sqrt(state.most / (picture.width * picture.height));
    const smaller = share < 1 ? scaled(picture, share) : null;
    picture.close();
    return smaller ? file(smaller) : chosen;
  }

  function scaled(picture, share) {
    const canvas = new OffscreenCanvas(Math.floor(picture.width * share), Math.floor(picture.height * share));
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
    return canvas;
  }

  async function file(canvas) {
    const blob = await canvas.convertToBlob({ type: "image/png" });
    return new File([blob], "canvas.png", { type: "image/png" });
  }

  /* Upload `files` (or what the function makes of the canvas by then), then put their paths into the form. */
  function send(field, files) {
    state.pending = state.pending.then(async () => {
      const paths = await uploaded(files).catch(() => null);
      if (paths) state.unsent.delete(field);
      else state.unsent.set(field, files);
      fill(field, (paths || []).join("\n"));
      draw();
    });
    draw();
  }

  async function uploaded(files) {
    const given = typeof files === "function" ? await files() : files;
    const sent = await Promise.all(given.map((each) => upload(each)));
    return sent.map(({ path }) => path);
  }

  /* The fields that the task needs and the server did not take. */
  const unsent = () => NEEDS[state.task].filter((field) => state.unsent.has(field));

  function fill(name, text) {
    const input = darkroom.field(name);
    if (input.value !== text) type(input, text);
  }

  /* Generate waits for `other`, too. */
  function wait(other) {
    state.pending = state.pending.then(() => other);
  }

  /* All that was painted is with the server and in the form; false if it could not be sent, tried once more. */
  async function settled() {
    for (const field of unsent()) send(field, state.unsent.get(field));
    let waited;
    do {
      waited = state.pending;
      await waited;
    } while (waited !== state.pending); // what came meanwhile
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    return !unsent().length;
  }

  async function painted() {
    const mask = layers.inpaint;
    const pixels = mask.getContext("2d").getImageData(0, 0, mask.width, mask.height);
    let any = false;
    for (let at = 0; at < pixels.data.length; at += 4) {
      const alpha = pixels.data[at + 3];
      const grey = state.soft ? alpha : alpha > 127 ? 255 : 0; // a brush's smooth rim is no wish for half a change
      any ||= grey > 0;
      pixels.data.set([grey, grey, grey, 255], at);
    }
    if (!any) return [];
    const canvas = new OffscreenCanvas(mask.width, mask.height);
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return [await file(canvas)];
  }

  async function sketched() {
    const sketch = layers.image;
    if (!snapshot(sketch).data.some(Boolean)) return state.files;
    const canvas = new OffscreenCanvas(sketch.width, sketch.height);
    const pen = canvas.getContext("2d");
    pen.drawImage($(".layers img", root), 0, 0);
    pen.drawImage(sketch, 0, 0);
    return [await file(canvas), ...state.files.slice(1)];
  }

  const changed = (layer) => (layer === layers.inpaint ? send("mask", painted) : send("image", sketched));

  /* A mask from a file goes onto the easel if it fits; if it does not, the server says so. */
  async function readMask(chosen) {
    const picture = await createImageBitmap(chosen).catch(() => null);
    const mask = layers.inpaint;
    if (!picture || picture.width !== mask.width || picture.height !== mask.height) return send("mask", [chosen]);
    remember(moment(mask));
    const pen = mask.getContext("2d");
    pen.clearRect(0, 0, mask.width, mask.height);
    pen.drawImage(picture, 0, 0);
    const pixels = pen.getImageData(0, 0, mask.width, mask.height);
    const alphas = new Set();
    for (let at = 3; at < pixels.data.length; at += 4) alphas.add(pixels.data[at]);
    for (let at = 0; at < pixels.data.length; at += 4) {
      // as core/pictures/images.py reads it: alpha if it varies, else brightness
      const [r, g, b, a] = pixels.data.subarray(at, at + 4);
      const grey = alphas.size > 1 ? a : Math.round(0.299 * r + 0.587 * g + 0.114 * b);
      pixels.data.set([255, 90, 60, grey], at);
    }
    pen.putImageData(pixels, 0, 0);
    state.soft = true;
    return changed(mask);
  }

  /* -- painting ------------------------------------------------------------------------------------------------ */

  /* Where on the layer a pointer is, and how many of its pixels are one of the page's. */
  function spot(layer, event) {
    const box = layer.getBoundingClientRect();
    const scale = layer.width / box.width;
    return {
      id: event.pointerId,
      x: (event.clientX - box.left) * scale,
      y: (event.clientY - box.top) * scale,
      scale,
    };
  }

  /* The first finger paints. A second one takes its stroke back: it is there to move the board. */
  function wirePainting(layer) {
    const pen = layer.getContext("2d", { willReadFrequently: true });
    let [before, last] = [null, null]; // the layer before the stroke, and where its brush is
    const stroke = (to) => {
      pen.globalCompositeOperation = state.tool === "eraser" ? "destination-out" : "source-over";
      pen.strokeStyle = layer === layers.inpaint ? PAINT : $("[name=colour]", root).value;
      pen.lineWidth = Number($("[name=size]", root).value) * to.scale;
      pen.lineCap = pen.lineJoin = "round";
      pen.beginPath();
      pen.moveTo(last.x, last.y);
      pen.lineTo(to.x + 0.01, to.y); // a line without length is not drawn, and a tap is a dot
      pen.stroke();
      last = to;
    };
    layer.addEventListener("pointerdown", (event) => {
      if (event.button || !event.isPrimary || last) return; // or a palm beside the pen
      layer.setPointerCapture(event.pointerId);
      [before, last] = [moment(layer), spot(layer, event)];
      stroke(last);
    });
    layer.addEventListener("pointermove", (event) => {
      if (event.pointerId !== last?.id) return;
      for (const each of event.getCoalescedEvents?.() || [event]) stroke(spot(layer, each));
    });
    const end = (event) => {
      if (event.pointerId !== last?.id) return;
      last = null;
      remember(before);
      changed(layer);
    };
    layer.addEventListener("pointerup", end);
    layer.addEventListener("pointercancel", end);
    $(".board", root).addEventListener("pointerdown", (event) => {
      if (event.isPrimary || !last) return;
      last = null;
      pen.putImageData(before.pixels, 0, 0);
    });
  }

  function wireMoving(board) {
    let finger = null; // the second one, as it was last heard of
    board.addEventListener("pointerdown", (event) => {
      if (!event.isPrimary) finger = event;
    });
    board.addEventListener("pointermove", (event) => {
      if (event.pointerId !== finger?.pointerId) return;
      board.scrollBy(finger.clientX - event.clientX, finger.clientY - event.clientY);
      finger = event;
    });
    const end = (event) => {
      if (event.pointerId === finger?.pointerId) finger = null;
    };
    board.addEventListener("pointerup", end);
    board.addEventListener("pointercancel", end);
  }

  const snapshot = (layer) => layer.getContext("2d").getImageData(0, 0, layer.width, layer.height);

  const moment = (layer) => ({ layer, pixels: snapshot(layer), soft: state.soft });

  function remember(before) {
    state.back.push(before);
    state.back.splice(0, state.back.length - STEPS_BACK);
    state.forth = [];
  }

  function step(from, to) {
    const known = from.pop();
    if (!known) return;
    to.push(moment(known.layer));
    known.layer.getContext("2d").putImageData(known.pixels, 0, 0);
    state.soft = known.soft;
    changed(known.layer);
  }

  function clear() {
    const layer = layers[state.task];
    remember(moment(layer));
    layer.getContext("2d").clearRect(0, 0, layer.width, layer.height);
    if (layer === layers.inpaint) state.soft = false;
    changed(layer);
  }

  /* -- what is seen --------------------------------------------------------------------------------------------- */

  const DOES = {
    undo: () => step(state.back, state.forth),
    redo: () => step(state.forth, state.back),
    clear,
    smaller: () => {
      state.zoom = Math.max(1, state.zoom / 1.25);
    },
    larger: () => {
      state.zoom = Math.min(8, state.zoom * 1.25);
    },
    used: () => {
      state.used = !state.used;
    },
    "mask-file": () => $("[name=mask]", root).click(),
    choose: () => $("[name=pictures]", root).click(),
    camera,
    blank,
    remove,
  };

  function clicked(event) {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.tool) state.tool = button.dataset.tool;
    DOES[button.dataset.does]?.();
    draw();
  }

  function pressed(event) {
    if (!root.checkVisibility() || writes(event.target) || !state.files.length) return;
    const undo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
    if (undo) DOES[event.shiftKey ? "redo" : "undo"]();
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (event.key === "b") state.tool = "brush";
    else if (event.key === "e") state.tool = "eraser";
    else return;
    event.preventDefault();
    draw();
  }

  /* The tab that is open; of the tabs for tasks, the last one says what Generate does. */
  function tab(name) {
    document.documentElement.dataset.tab = name;
  }

  function task(name) {
    state.task = name;
    tab(name);
    document.documentElement.dataset.task = name;
    document.getElementById("settings").scrollTop = 0;
    look(name === "text" ? "picture" : "source");
    if (darkroom.touch() && name !== "text" && !state.files.length) scrollTo({ top: 0, behavior: "smooth" }); // where it begins
    return name;
  }

  function look(which) {
    state.look = state.task === "text" ? "picture" : which;
    draw();
  }

  function outlook(plan) {
    state.plan = plan.frame ? plan : {};
    state.most = plan.most ?? state.most;
    const steps = state.task === "text" ? "" : plan.runs || "";
    document.getElementById("field-strength").dataset.steps = steps;
    draw();
  }

  /* The two lines under the canvas while the easel is on it. */
  function hint() {
    if (state.look !== "source") return null;
    if (unsent().length) return UNSENT;
    return $("video", root).hidden ? HINTS[state.task] : SHOOTING;
  }

  function draw() {
    if (!root) return;
    const on = state.look === "source";
    const [there, masking] = [state.files.length > 0, state.task === "inpaint"];
    const canvas = root.parentElement;
    root.hidden = !on;
    document.documentElement.classList.toggle("on-source", on);
    $(".room", canvas).hidden = on;
    const looks = $(".looks", canvas);
    looks.hidden = state.task === "text";
    write($("[data-look=source]", looks), masking ? "Mask" : "Source");
    for (const button of looks.children) button.setAttribute("aria-pressed", button.dataset.look === state.look);
    $(".tools", root).hidden = $(".frame", root).hidden = !there;
    $(".layers img", root).hidden = !there;
    $(".drop", root).hidden = there;
    layers.image.hidden = false;
    layers.inpaint.hidden = !masking;
    for (const button of root.querySelectorAll("[data-tool]"))
      button.setAttribute("aria-pressed", button.dataset.tool === state.tool);
    $("[name=colour]", root).hidden = masking;
    $("[data-does=used]", root).hidden = $("[data-does='mask-file']", root).hidden = !masking;
    $("[data-does=undo]", root).disabled = !state.back.length;
    $("[data-does=redo]", root).disabled = !state.forth.length;
    drawFrame(masking);
    darkroom.redraw?.();
  }

  function drawFrame(masking) {
    const [width, height] = (masking && state.plan.frame) || [layers.inpaint.width, layers.inpaint.height];
    const [left, up, right, down] = (masking && state.plan.sides) || [0, 0, 0, 0];
    const frame = $(".frame", root);
    frame.style.setProperty("--ar", width / height);
    frame.style.setProperty("--zoom", state.zoom);
    frame.classList.toggle("larger", left + up + right + down > 0);
    inside($(".layers", root), [left, up, width - right, height - down], [width, height]);
    const region = $(".region", root);
    region.hidden = !(masking && state.plan.region);
    if (!region.hidden) inside(region, state.plan.region, [width, height]);
    const used = $(".used", root);
    used.hidden = !(masking && state.used && state.plan.mask);
    if (!used.hidden) used.src = state.plan.mask;
    layers.inpaint.classList.toggle("hushed", !used.hidden);
    $("[data-does=used]", root).setAttribute("aria-pressed", state.used);
    const more = masking ? 0 : state.files.length - 1;
    const size = state.smaller ? `made smaller, to ${layers.image.width} × ${layers.image.height}` : "";
    frame.dataset.more = unsent().length ? UNSENT[0] : more > 0 ? `and ${more} more` : size;
  }

  /* `node` over a box (left, upper, right, lower) of its frame of `size`. */
  function inside(node, [left, upper, right, lower], [width, height]) {
    const percent = (part, whole) => `${(100 * part) / whole}%`;
    Object.assign(node.style, {
      left: percent(left, width),
      top: percent(upper, height),
      width: percent(right - left, width),
      height: percent(lower - upper, height),
    });
  }

  /* The picture that lies on it. */
  const layer = () => $(".layers img", root).src;

  Object.assign(darkroom, {
    easel,
    layer,
    tab,
    task,
    look,
    hint,
    outlook,
    settled,
    fitted,
    wait,
    lay,
    begin,
    send: sent,
  });
})();
