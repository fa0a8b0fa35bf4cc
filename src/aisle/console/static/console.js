// What the pages do better with a script. Every form works without it.
"use strict";

document.documentElement.classList.add("scripted");

/** Send a form, and get the part of a page that answers it. `undefined`: another one was sent meanwhile. */
async function partOf(address, body, signal) {
  try {
    const answer = await fetch(address, { method: "POST", body, signal, headers: { "X-Part": "1" } });
    return { good: answer.ok, html: await answer.text() };
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    return { good: false, html: document.querySelector("[data-away]").innerHTML };
  }
}

/** Parts come from our own templates, where every value is escaped; the policy of the page runs no script in them. */
function put(place, html) {
  place.innerHTML = html;
  place.classList.remove("stale");
}

// A button that is clicked twice is meant once; somebody who waits in vain for an answer may try again.
const PATIENCE_MS = 30_000;
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post") return;
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "1";
  setTimeout(() => delete form.dataset.sent, PATIENCE_MS);
});
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("[data-sent]")) delete form.dataset.sent;
});

function classifyPage(form) {
  const answer = document.querySelector("[data-answer]");
  const reasons = document.querySelector("[data-reasons]");
  const image = form.querySelector("#image");
  const shot = form.querySelector("[data-shot]");
  const clear = form.querySelector("[data-clear]");
  const drop = form.querySelector("[data-drop]");
  let timer = 0;
  let asking = new AbortController();
  form.querySelector("[data-script]").hidden = false;

  const isEmpty = () => !form.designation.value.trim() && !form.description.value.trim() && !image.files.length;

  async function ask(address, isPreview) {
    clearTimeout(timer);
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    answer.classList.add("stale");
    reasons.classList.add("stale");
    if (isEmpty() && isPreview) return;
    const said = await partOf(address, new FormData(form), signal);
    if (said === undefined) return;
    put(answer, said.html);
    if (isPreview || !said.good) return;
    const why = await partOf(form.dataset.why, new FormData(form), signal);
    if (why !== undefined) put(reasons, why.html);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(form.action, false);
  });
  form.addEventListener("input", (event) => {
    if (event.target === image) return;
    clearTimeout(timer);
    timer = setTimeout(() => ask(form.dataset.preview, true), 300);
  });

  function show() {
    URL.revokeObjectURL(shot.src);
    const [file] = image.files;
    shot.hidden = clear.hidden = !file;
    if (file) shot.src = URL.createObjectURL(file);
    ask(form.dataset.preview, true);
  }
  function take(files) {
    const photo = [...files].find((one) => one.type.startsWith("image/"));
    form.querySelector("[data-no-image]").hidden = Boolean(photo) || !files.length;
    if (!photo) return;
    const chosen = new DataTransfer();
    chosen.items.add(photo);
    image.files = chosen.files;
    show();
  }
  image.addEventListener("change", () => {
    form.querySelector("[data-no-image]").hidden = true;
    show();
  });
  clear.addEventListener("click", () => {
    image.value = "";
    show();
    image.focus();
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take(event.clipboardData.files);
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (!event.dataTransfer || ![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files);
    });
  }
  answer.addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = new FormData(event.target, event.submitter);
    const said = await partOf(event.target.action, body);
    if (said) put(answer, said.html);
  });
}

const classify = document.querySelector("[data-classify]");
if (classify) classifyPage(classify);

/** The review queue: one key for each of the best five, `/` to search all types, `s` to skip, `u` to undo. */
function reviewPage(place) {
  let types;
  let isBusy = false;

  async function send(form, submitter) {
    if (isBusy) return;
    isBusy = true;
    place.classList.add("stale");
    const said = await partOf(form.action, new FormData(form, submitter));
    isBusy = false;
    if (said.good) {
      put(place, said.html);
      (place.querySelector("[data-focus]") || place).focus({ preventScroll: true });
      return;
    }
    place.classList.remove("stale");
    place.querySelector(".notice.bad")?.remove();
    place.insertAdjacentHTML("afterbegin", said.html);
  }

  place.addEventListener("click", (event) => {
    if (event.detail > 1) event.preventDefault(); // of a double click, the second would be about the next product
  });
  place.addEventListener("click", async (event) => {
    const link = event.target.closest("[data-more]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.defaultPrevented) return;
    event.preventDefault();
    const answer = await fetch(link.href, { headers: { "X-Part": "1" } }).catch(() => undefined);
    if (answer?.ok) link.outerHTML = await answer.text();
    else location.assign(link.href);
  });
  place.addEventListener("submit", (event) => {
    event.preventDefault();
    if (event.submitter) send(event.target, event.submitter);
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
    if (event.key === "/") {
      event.preventDefault();
      place.querySelector("[data-other]")?.focus();
      return;
    }
    // The row of digits, too, where digits need Shift, as on a French keyboard; and letters whatever Caps Lock says.
    const key = (!event.shiftKey && /^Digit(\d)$/.exec(event.code)?.[1]) || event.key.toLowerCase();
    const button = place.querySelector(`[data-key="${CSS.escape(key)}"]`);
    if (button && !event.repeat) {
      event.preventDefault();
      send(button.form, button);
    }
  });

  const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

  async function search(input) {
    if (!types) {
      const answer = await fetch("/console/review/types.json", { headers: { "X-Part": "1" } }).catch(() => undefined);
      if (!answer?.ok) return; // the session is over, or the service away: the next answer says so
      types = await answer.json();
    }
    const wanted = plain(input.value.trim());
    const words = wanted.split(/\s+/);
    const found = types.filter(([code, label]) => code.startsWith(wanted) || words.every((one) => plain(label).includes(one)));
    found.sort((one, other) => Number(other[0] === wanted) - Number(one[0] === wanted));
    show(input, wanted ? found.slice(0, 50) : types.slice(0, 50));
  }

  function show(input, found) {
    const list = place.querySelector("#found");
    list.replaceChildren(
      ...found.map(([code, label], number) => {
        const item = document.createElement("li");
        const shown = document.createElement("span");
        shown.className = "code";
        shown.textContent = code;
        item.append(shown, ` ${label}`);
        item.id = `found-${number}`;
        item.dataset.code = code;
        item.setAttribute("role", "option");
        item.setAttribute("aria-selected", String(number === 0));
        return item;
      }),
    );
    list.hidden = !found.length;
    input.setAttribute("aria-expanded", String(Boolean(found.length)));
    if (found.length) input.setAttribute("aria-activedescendant", "found-0");
    else input.removeAttribute("aria-activedescendant");
  }

  function choose(input, item) {
    const form = input.closest("form");
    const chosen = document.createElement("button");
    chosen.name = "type";
    chosen.value = item.dataset.code;
    chosen.hidden = true;
    form.append(chosen);
    send(form, chosen);
  }

  function move(input, by) {
    const items = [...place.querySelectorAll("#found li")];
    const now = items.findIndex((one) => one.getAttribute("aria-selected") === "true");
    const next = items[Math.min(Math.max(now + by, 0), items.length - 1)];
    if (!next) return;
    items[now]?.setAttribute("aria-selected", "false");
    next.setAttribute("aria-selected", "true");
    next.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", next.id);
  }

  place.addEventListener("focusin", (event) => {
    if (event.target.matches("[data-other]")) search(event.target);
  });
  place.addEventListener("input", (event) => {
    if (event.target.matches("[data-other]")) search(event.target);
  });
  place.addEventListener("focusout", (event) => {
    if (event.target.matches("[data-other]")) show(event.target, []);
  });
  place.addEventListener("mousedown", (event) => {
    const item = event.target.closest("#found li");
    if (!item) return;
    event.preventDefault();
    choose(place.querySelector("[data-other]"), item);
  });
  place.addEventListener("keydown", (event) => {
    const input = event.target;
    if (!input.matches("[data-other]")) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      move(input, event.key === "ArrowDown" ? 1 : -1);
    } else if (event.key === "Enter") {
      event.preventDefault();
      const item = place.querySelector('#found li[aria-selected="true"]');
      if (item) choose(input, item);
    } else if (event.key === "Escape") {
      input.value = "";
      input.blur();
    }
  });
}

const review = document.querySelector("[data-review]");
if (review) reviewPage(review);

/** Files that were chosen or dropped, one table and one zip; how much of them is sent. */
function bulkPage(form) {
  const input = form.querySelector("#files");
  const drop = form.querySelector("[data-drop]");
  const list = form.querySelector("[data-chosen]");
  const sending = form.querySelector("[data-sending]");
  const failed = form.querySelector("[data-failed]");
  const button = form.querySelector("button.primary");
  const size = new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: 1 });
  const share = new Intl.NumberFormat(document.documentElement.lang, { style: "percent" });
  const kept = {};

  function take(files) {
    const replaced = [];
    for (const one of files) {
      const kind = /\.zip$/i.test(one.name) ? "images" : "table";
      const before = kept[kind];
      if (before && before.name !== one.name) replaced.push(before.name);
      kept[kind] = one;
    }
    const chosen = new DataTransfer();
    for (const one of [kept.table, kept.images]) if (one) chosen.items.add(one);
    input.files = chosen.files;
    list.hidden = !input.files.length;
    list.replaceChildren(
      ...[...input.files].map((one) => {
        const item = document.createElement("li");
        const name = document.createElement("bdi");
        const mib = document.createElement("span");
        name.textContent = one.name;
        mib.className = "figure muted";
        mib.textContent = `${size.format(one.size / 2 ** 20)} MiB`;
        const remove = document.createElement("button");
        remove.type = "button";
        remove.className = "quiet";
        remove.textContent = list.dataset.remove;
        remove.setAttribute("aria-label", `${list.dataset.remove}: ${one.name}`);
        remove.addEventListener("click", () => {
          delete kept[one === kept.images ? "images" : "table"];
          take([]);
          input.focus();
        });
        item.append(name, mib, remove);
        return item;
      }),
      ...replaced.map((name) => {
        const item = document.createElement("li");
        item.className = "muted";
        item.textContent = `${name}: ${list.dataset.replaced}`;
        return item;
      }),
    );
  }
  input.addEventListener("change", () => take([...input.files]));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (!event.dataTransfer || ![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files);
    });
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const request = new XMLHttpRequest(); // fetch does not tell how far an upload is
    const over = () => {
      sending.hidden = true;
      button.disabled = false;
    };
    request.upload.addEventListener("progress", ({ loaded, total }) => {
      sending.querySelector("progress").value = loaded / total;
      sending.querySelector("[data-share]").textContent = share.format(loaded / total);
    });
    request.addEventListener("load", () => {
      const address = request.getResponseHeader("Location");
      if (request.status === 201 && address) {
        location.assign(address);
        return;
      }
      over();
      put(form.querySelector("[data-why]"), request.responseText);
    });
    request.addEventListener("error", () => {
      over();
      failed.hidden = false;
    });
    failed.hidden = true;
    form.querySelector("[data-why]").replaceChildren();
    sending.hidden = false;
    button.disabled = true;
    request.open("POST", form.action);
    request.setRequestHeader("X-Part", "1");
    request.send(new FormData(form));
  });
}

/** How far a job or other work is, as long as it goes on and somebody looks; when it is over, the page as it is by then. */
function watchPage(place) {
  let timer = 0;
  let last = "";
  async function look() {
    try {
      const answer = await fetch(place.dataset.watch, { headers: { "X-Part": "1" } });
      const html = await answer.text();
      if (!answer.ok || !html.includes("data-running")) {
        location.reload();
        return;
      }
      if (html !== last) put(place, html);
      last = html;
    } catch {
      place.classList.add("stale"); // the service is away; it may come back
      last = "";
    }
    next();
  }
  function next() {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(look, 1500);
  }
  if (!place.querySelector("[data-running]")) return;
  document.addEventListener("visibilitychange", next);
  next();
}

const bulk = document.querySelector("[data-bulk]");
if (bulk) bulkPage(bulk);
const watched = document.querySelector("[data-watch]");
if (watched) watchPage(watched);
// A page that comes back out of the browser's memory has a form that was sent, and work as it was.
window.addEventListener("pageshow", (event) => {
  if (event.persisted && (bulk || watched)) location.reload();
});
