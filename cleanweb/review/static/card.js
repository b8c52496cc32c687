// How a row of images looks: as a card of the grid, and with all that is known of it.

import { picture, whyNoPicture } from "./api.js";
import { bdi, count, el, percent, shown } from "./dom.js";

export const SIGNS = { clean: "✓", relabeled: "→", ood: "∅", unusable: "!" };
export const WORDS = { clean: "label fits", relabeled: "another class", ood: "no class", unusable: "unusable" };
const UNREADABLE = new Set(["missing", "empty", "truncated", "not_an_image", "unsupported", "too_large", "error"]);

export const verdict = (row) =>
  el("span", { class: `verdict ${row.verdict}` }, el("span", { "aria-hidden": "true" }, SIGNS[row.verdict]), row.verdict);

function labels(row) {
  const given = row.given_label === null ? el("i", {}, "no label") : bdi(row.given_label);
  if (row.verdict === "relabeled") return [el("s", {}, given), " → ", bdi(row.suggested_label)];
  if (row.verdict === "ood") return [el("s", {}, given)];
  return [given];
}

export function image(row, size, instead) {
  if (UNREADABLE.has(row.status)) return noPicture(row.error || row.status);
  const found = el("img", { src: picture(row, size), alt: "", draggable: "false", decoding: "async" });
  found.addEventListener("error", async () => {
    const place = noPicture("…");
    found.replaceWith(place);
    place.lastChild.textContent = shown(await whyNoPicture(row));
    instead?.();
  }, { once: true });
  return found;
}

const noPicture = (why) =>
  el("span", { class: "no-picture" }, el("b", { "aria-hidden": "true" }, "▨"), el("span", {}, shown(why)));

// What a screen reader says of it.
function said(row) {
  const to = row.verdict === "relabeled" ? `, suggested ${row.suggested_label}` : "";
  const sure = row.confidence === null ? "" : `, ${percent(row.confidence)} sure`;
  const who = row.review ? `, decided by ${row.review.who || "a person"}` : row.needs_review ? ", worth a look" : "";
  return shown(`${row.path}: given ${row.given_label ?? "no label"}, ${row.verdict}${to}${sure}${who}`);
}

export function card(row, old) {
  if (!row) return old ?? el("div", { class: "card waiting", "aria-label": "loading" });
  const key = `${row.sample_id}|${row.mark}|${row.needs_review}`;
  if (old?.key === key) return old;
  const shownAlready = old?.sample === row.sample_id && old.querySelector("img"); // no flicker
  const mark = row.review
    ? el("span", { class: "mark done", title: shown(`${row.review.who || "somebody"}, ${row.review.at}`) }, "✓")
    : row.needs_review ? el("span", { class: "mark look", title: "worth a look" }, "?") : null;
  const made = el("div", { class: `card ${row.verdict}${row.review ? " reviewed" : ""}`, "aria-label": said(row) },
    el("span", { class: "pick", title: "Select (Space)", "aria-hidden": "true" }),
    el("div", { class: "picture" }, shownAlready || image(row, "small")),
    el("div", { class: "caption" },
      el("div", { class: "labels", title: shown(row.path) }, ...labels(row)),
      el("div", { class: "facts" }, verdict(row), el("span", { class: "sure" }, row.review ? "" : percent(row.confidence)),
        row.copies ? el("span", { class: "copies", title: "copies of it" }, `+${row.copies}`) : null, mark)));
  made.key = key;
  made.sample = row.sample_id;
  return made;
}

export function details(row) {
  const p = row.p_clean === null ? [] : [["clean", row.p_clean], ["relabeled", row.p_id], ["ood", row.p_ood]];
  const seen = row.predicted_label === null ? null : [bdi(row.predicted_label), ` (${percent(row.p_predicted)})`];
  const lines = [
    ["Given", [row.given_label === null ? "no label" : bdi(row.given_label)]],
    ["Suggested", row.suggested_label && [bdi(row.suggested_label)]],
    ["Model sees", seen],
    ["Why", [shown(row.reason ?? "")]],
    ["Sure", row.confidence === null ? null : [percent(row.confidence)]],
    ["Decided by", row.review && [shown(`${row.review.who || "somebody"}, ${row.review.at}`)]],
    ["Copies", row.copies ? [count(row.copies, "more")] : null],
    ["Size", row.width && [`${row.width} × ${row.height} px`]],
    ["File", [bdi(row.path, { class: "path" })]],
  ];
  return el("div", { class: "details" }, verdict(row),
    el("div", { class: "bars" }, ...p.map(([name, value]) =>
      el("div", { class: `bar ${name}` }, el("span", {}, WORDS[name]),
        el("meter", { min: 0, max: 1, value, "aria-label": WORDS[name] }), el("span", { class: "sure" }, percent(value))))),
    el("dl", {}, ...lines.filter(([, value]) => value).map(([name, value]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, ...value)))));
}
