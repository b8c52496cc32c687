// Choose a class by typing a part of its name. new Picker(dialog, classes).choose(title, first) → label or null

import { bdi, el, shown } from "./dom.js";

const SHOWN = 200;

export class Picker {
  constructor(dialog, labels) {
    this.dialog = dialog;
    this.labels = labels;
    this.input = el("input", { role: "combobox", "aria-expanded": "true", "aria-controls": "picker-list",
      "aria-autocomplete": "list", "aria-label": "Class", placeholder: "Type a part of the name", spellcheck: "false",
      autocapitalize: "off", autocomplete: "off" });
    this.list = el("ul", { id: "picker-list", role: "listbox", "aria-label": "Classes" });
    this.title = el("h2", { id: "picker-title" });
    dialog.append(this.title, this.input, this.list);
    this.input.addEventListener("input", () => this.#fill());
    this.input.addEventListener("keydown", (event) => this.#key(event));
    this.list.addEventListener("click", (event) => {
      const item = event.target.closest("li");
      if (item?.label !== undefined) this.#end(item.label);
    });
    dialog.addEventListener("click", (event) => event.target === dialog && this.#end(null));
    dialog.addEventListener("cancel", (event) => (event.preventDefault(), this.#end(null)));
  }

  // first: labels that are likely, shown before the others.
  choose(title, first) {
    this.title.textContent = shown(title);
    this.first = [...new Set(first)].filter((label) => this.labels.includes(label));
    this.input.value = "";
    this.#fill();
    this.dialog.showModal();
    this.input.focus();
    return new Promise((resolve) => (this.resolve = resolve));
  }

  #end(label) {
    this.dialog.close();
    this.resolve?.(label);
    this.resolve = null;
  }

  #fill() {
    const wanted = this.input.value.trim().toLowerCase();
    const rank = (label) => {
      const at = label.toLowerCase().indexOf(wanted);
      return at === 0 ? 0 : at > 0 && /[\s_\-/.]/.test(label[at - 1]) ? 1 : 2;
    };
    const fit = (labels) => labels.filter((label) => label.toLowerCase().includes(wanted));
    const rest = fit(this.labels.filter((label) => !this.first.includes(label)));
    this.found = [...fit(this.first), ...rest].map((label, i) => [label, wanted ? rank(label) : 0, i]);
    this.found = this.found.sort((a, b) => a[1] - b[1] || a[2] - b[2]).map(([label]) => label);
    const items = this.found.slice(0, SHOWN).map((label, i) => {
      const item = el("li", { role: "option", id: `label-${i}` }, bdi(label),
        this.first.includes(label) ? el("small", {}, "likely") : null);
      item.label = label;
      return item;
    });
    const more = this.found.length - SHOWN;
    if (more > 0) items.push(el("li", { class: "more" }, `… ${more} more: type on`));
    if (!items.length) items.push(el("li", { class: "more" }, "No such class"));
    this.list.replaceChildren(...items);
    this.#mark(0);
  }

  #mark(at) {
    const most = Math.min(this.found.length, SHOWN) - 1;
    this.at = Math.max(0, Math.min(most, at));
    [...this.list.children].forEach((item, i) => item.setAttribute("aria-selected", i === this.at && most >= 0));
    this.list.children[this.at]?.scrollIntoView({ block: "nearest" });
    this.input.setAttribute("aria-activedescendant", `label-${this.at}`);
  }

  #key(event) {
    event.stopPropagation();
    if (event.key === "ArrowDown") this.#mark(this.at + 1);
    else if (event.key === "ArrowUp") this.#mark(this.at - 1);
    else if (event.key === "Enter" && this.found.length) this.#end(this.found[this.at]);
    else return;
    event.preventDefault();
  }
}
