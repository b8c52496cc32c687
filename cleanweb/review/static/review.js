// The page: pictures, what a person does with them, and what others do meanwhile.

import * as api from "./api.js";
import { card } from "./card.js";
import { $, bdi, count, el, shown, toast } from "./dom.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { Picker } from "./picker.js";
import { Zoom } from "./zoom.js";

const LOOK_EVERY_MS = 4000; // for what others have changed
const KEYS = { a: "accept", enter: "accept", g: "clean", r: "relabel", o: "ood", u: "undo", z: "zoom", h: "history" };
const DONE = { accept: "Accepted", clean: "Given label is right", ood: "None of the classes", relabel: "Relabeled" };

let about, question, known, filters, grid, picker, zoom;
let waiting = Promise.resolve(); // actions go one after the other
let pending = 0;
let telling;
const mine = []; // the decisions of every action on this page, for undo

// --- looking ----------------------------------------------------------------------------------------------------------

async function load(begin, end) {
  const asked = question;
  try {
    const found = await api.page(asked, begin, end);
    if (asked !== question) return null;
    note(found);
    return found.rows;
  } catch (error) {
    fail(error);
    return null;
  }
}

async function look(asked) {
  question = asked;
  $("where-error").textContent = "";
  try {
    const found = await api.total(asked);
    if (asked !== question) return;
    known = { stamp: found.stamp, generation: found.generation };
    $("count").textContent = count(found.count, "picture");
    $("empty").hidden = found.count > 0;
    grid.element.hidden = !found.count;
    grid.reset(found.count);
  } catch (error) {
    if (error.status === 400) $("where-error").textContent = shown(error.message);
    else fail(error);
  }
}

function note({ generation, stamp }) {
  if (known && generation !== known.generation) {
    known = { generation, stamp };
    toast("The manifest was written anew: what is shown is what it says now.", { kind: "news" });
    tell();
    look(question);
  } else if (known) known.stamp = stamp;
}

async function watch() {
  if (document.hidden || pending) return;
  try {
    const now = await api.stamp();
    $("progress").classList.remove("lost");
    if (!known || pending || now.stamp === known.stamp) return;
    const same = now.generation === known.generation;
    note(now);
    if (same) await grid.refresh();
    await tell();
  } catch (error) {
    $("progress").classList.add("lost");
    $("progress").textContent = shown(error.message);
  }
}

async function tell() {
  about = await api.about();
  $("run").textContent = shown(about.run);
  $("progress").textContent = `${count(about.decided, "decision")} · ${about.needs_review.toLocaleString("en")} worth a look`;
  filters?.recount(about.counts);
}

const fail = (error) => toast(error.message, { kind: "bad", seconds: 12 });

function changed() {
  const n = grid.selection.size;
  $("selected").textContent = n ? `${count(n, "picture")} selected` : "";
  document.body.classList.toggle("selecting", n > 0);
  zoom?.show(grid.row(grid.focus));
}

// --- deciding ---------------------------------------------------------------------------------------------------------

function act(name) {
  if (name === "undo") return undo();
  if (name === "zoom") return zoom.toggle(grid.row(grid.focus));
  if (name === "history") return openHistory();
  if (name === "relabel") return relabel();
  return decide(name, null);
}

async function relabel() {
  const places = grid.chosen();
  if (!places.length) return;
  const row = grid.row(places[0]);
  const likely = row ? [row.predicted_label, row.suggested_label].filter(Boolean) : [];
  const several = places.length > 1;
  const label = await picker.choose(several ? `What are these ${places.length}?` : "What is it?", several ? [] : likely);
  if (label !== null) decide("relabel", label);
}

function decide(action, label) {
  const places = grid.chosen();
  if (!places.length) return;
  if (places.length > about.most_at_once) {
    toast(`At most ${about.most_at_once.toLocaleString("en")} at once.`, { kind: "bad" });
    return;
  }
  const rows = grid.rows(places); // what is seen now, not what it will be when its turn comes
  const single = !grid.selection.size;
  grid.mark(places, "pending", true);
  grid.clear();
  if (single) grid.move(1);
  queue(async () => {
    try {
      const done = await api.decide(action, await rows, label ?? undefined);
      settle(done);
      if (done.review_ids.length) mine.push(done.review_ids);
      const words = `${DONE[action]}${label === null ? "" : `: ${label}`}`;
      if (!single) toast(`${words}. ${count(done.review_ids.length, "picture")}.`, { action: undo, label: "Undo" });
      if (done.conflicts.length) {
        const n = count(done.conflicts.length, "picture was", "pictures were");
        toast(`${n} changed by somebody else meanwhile and left as is. Look again.`, { kind: "bad", seconds: 12 });
      }
    } finally {
      grid.mark(places, "pending", false);
    }
  });
}

function undo() {
  queue(async () => {
    const done = await api.undo(mine.pop() ?? null);
    settle(done);
    toast(done.review_ids.length ? `Undone: ${count(done.review_ids.length, "decision")}.` : "Nothing to undo.");
  });
}

function settle(done) {
  grid.update(done.rows);
  note(done);
  zoom.show(grid.row(grid.focus));
}

function queue(task) {
  pending += 1;
  waiting = waiting.then(task).catch(fail).finally(() => {
    pending -= 1;
    clearTimeout(telling); // counting takes longer than deciding: it waits for a pause
    telling = setTimeout(() => tell().catch(() => {}), 1200);
  });
}

async function openHistory() {
  const dialog = $("history");
  const actions = await api.history();
  const item = (action) => el("li", { class: action.undone ? "undone" : "" },
    el("div", {}, el("b", {}, action.mixed ? "several" : action.verdict),
      action.label === null || action.mixed ? null : el("span", {}, " ", bdi(action.label)),
      el("span", {}, ` · ${count(action.images, "picture")}`), el("br"),
      el("small", {}, bdi(action.path), ` · ${action.at} · `, bdi(action.who ?? "somebody"))),
    action.undone ? el("small", {}, "undone")
      : el("button", { type: "button", class: "quiet", onclick: (event) => takeBack(event, action) }, "Undo"));
  dialog.replaceChildren(el("h2", { id: "history-title" }, "History"),
    el("ol", { class: "history" }, ...(actions.length ? actions.map(item) : [el("li", {}, "Nothing was decided yet.")])),
    el("form", { method: "dialog" }, el("button", {}, "Close")));
  if (!dialog.open) dialog.showModal();
}

function takeBack(event, action) {
  event.target.disabled = true;
  queue(async () => {
    settle(await api.undo(action.review_ids));
    await openHistory();
  });
}

// --- keys -------------------------------------------------------------------------------------------------------------

function pressed(event) {
  const typing = event.target.closest("input:not([type=checkbox]), select, textarea");
  const other = document.querySelector("dialog[open]:not(#zoom)");
  if (event.defaultPrevented || typing || other || event.altKey) return;
  if (event.ctrlKey || event.metaKey) {
    if (event.key.toLowerCase() === "z" && !event.shiftKey) undo();
    else if (event.key.toLowerCase() === "a") grid.select(0, Math.min(grid.total, about.most_at_once) - 1);
    else return;
  } else if (!moved(event)) {
    if (event.key === "?") $("help").showModal();
    else if (event.key === "/") (openFilters(true), $("where").focus());
    else if (event.target.closest("button, a") && ["Enter", " "].includes(event.key)) return;
    else if (event.key === " ") grid.toggle();
    else if (event.key === "Escape" && !zoom.open) grid.clear();
    else if (KEYS[event.key.toLowerCase()] && !event.shiftKey) act(KEYS[event.key.toLowerCase()]);
    else return;
  }
  event.preventDefault();
}

function moved({ key, shiftKey }) {
  const far = { Home: -grid.focus, End: grid.total, PageUp: -grid.perView, PageDown: grid.perView };
  const near = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.columns, ArrowDown: grid.columns, n: 1, p: -1, j: 1, k: -1 };
  const by = far[key] ?? near[key];
  if (by === undefined) return false;
  grid.move(by, shiftKey);
  return true;
}

function openFilters(open) {
  $("filters").classList.toggle("open", open);
  $("open-filters").setAttribute("aria-expanded", open);
}

// --- begin ------------------------------------------------------------------------------------------------------------

async function begin() {
  grid = new Grid($("grid"), { load, card, changed, opened: () => act("zoom") });
  await tell();
  filters = new Filters($("filters"), about, (asked) => {
    grid.resize(Number($("size").value));
    if (JSON.stringify(asked) !== JSON.stringify(question)) look(asked);
  });
  picker = new Picker($("picker"), about.classes.map(([label]) => label));
  const buttons = () => [...$("actions").querySelectorAll("button")].map((button) => button.cloneNode(true));
  zoom = new Zoom($("zoom"), { step: (by) => grid.move(by), buttons });
  for (const button of document.querySelectorAll("[data-do]")) {
    button.addEventListener("click", () => {
      act(button.dataset.do);
      if (!zoom.open && button.dataset.do !== "relabel") grid.element.focus({ preventScroll: true });
    });
  }
  $("open-help").addEventListener("click", () => $("help").showModal());
  $("open-history").addEventListener("click", openHistory);
  $("open-filters").addEventListener("click", () => openFilters(!$("filters").classList.contains("open")));
  $("reset").addEventListener("click", () => $("filters").reset());
  for (const dialog of [$("help"), $("history")]) {
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }
  document.addEventListener("keydown", pressed);
  grid.width = Number($("size").value);
  await look(filters.question());
  grid.element.focus({ preventScroll: true });
  setInterval(watch, LOOK_EVERY_MS);
}

begin().catch((error) => {
  document.body.classList.add("lost");
  fail(error);
});
