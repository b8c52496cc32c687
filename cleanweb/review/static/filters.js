// Which pictures, in which order: the form, and the question it asks. It is kept in the address, for a reload.

import { $, bdi, count, el } from "./dom.js";
import { SIGNS } from "./card.js";

const NAMES = ["class", "show", "sort", "size", "where"];

export class Filters {
  constructor(form, about, changed) {
    this.form = form;
    this.labels = new Set(about.classes.map(([label]) => label));
    for (const name of Object.keys(SIGNS)) {
      const box = el("input", { type: "checkbox", value: name });
      $("verdicts").append(el("label", { class: `chip ${name}` }, box, el("span", { "aria-hidden": "true" }, SIGNS[name]),
        ` ${name} `, el("small", {}, (about.counts[name] ?? 0).toLocaleString("en"))));
    }
    $("classes").append(...about.classes.map(([label, images]) => el("option", { value: label }, count(images, "image"))));
    this.read();
    const tell = () => (this.write(), changed(this.question()));
    form.addEventListener("change", tell);
    form.addEventListener("submit", (event) => (event.preventDefault(), tell()));
    form.addEventListener("reset", () => setTimeout(() => ($("size").value = this.size, tell())));
  }

  question() {
    const show = $("show").value;
    const label = $("class").value;
    return {
      verdicts: this.chosen(),
      labels: label ? [label] : [],
      needs_review: show === "needs_review" ? true : null,
      reviewed: show === "open" ? false : show === "reviewed" ? true : null,
      copies: $("copies").checked,
      where: $("where").value,
      sort: $("sort").value,
    };
  }

  chosen() {
    return [...$("verdicts").querySelectorAll("input:checked")].map((box) => box.value);
  }

  recount(counts) {
    for (const box of $("verdicts").querySelectorAll("input")) {
      box.parentElement.querySelector("small").textContent = (counts[box.value] ?? 0).toLocaleString("en");
    }
  }

  read() {
    const stored = new URLSearchParams(location.hash.slice(1));
    this.size = matchMedia("(max-width: 600px)").matches ? "120" : "176";
    $("size").value = this.size;
    for (const name of NAMES) if (stored.has(name)) $(name).value = stored.get(name);
    $("copies").checked = stored.has("copies");
    const wanted = (stored.get("verdicts") ?? "").split(",");
    for (const box of $("verdicts").querySelectorAll("input")) box.checked = wanted.includes(box.value);
  }

  write() {
    const stored = new URLSearchParams();
    for (const name of NAMES) if ($(name).value) stored.set(name, $(name).value);
    if ($("copies").checked) stored.set("copies", "1");
    if (this.chosen().length) stored.set("verdicts", this.chosen().join(","));
    history.replaceState(null, "", `#${stored}`);
  }
}
