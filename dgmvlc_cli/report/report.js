"use strict";

/* The page reads well without any of this: tables are whole, and image pairs have a static figure. */

function sortKey(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.value;
  if (value === undefined) return cell.textContent.trim().toLowerCase();
  return value === "" ? NaN : Number(value);
}

function compare(a, b, ascending) {
  // What is missing stays at the end, whichever way the table is sorted.
  const aMissing = Number.isNaN(a), bMissing = Number.isNaN(b);
  if (aMissing || bMissing) return aMissing - bMissing;
  return (a < b ? -1 : a > b ? 1 : 0) * (ascending ? 1 : -1);
}

function sortBy(table, header) {
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const column = header.cellIndex;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(sortKey(a, column), sortKey(b, column), ascending));
  table.tBodies[0].append(...rows);
}

function makeSortable(table) {
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sortBy(table, header));
    header.append(button);
  }
}

function makeFilter(form) {
  const table = document.getElementById(form.dataset.table);
  const shown = form.querySelector("output");
  function apply() {
    const wanted = new FormData(form);
    let count = 0;
    for (const row of table.tBodies[0].rows) {
      const measure = wanted.get("measure"), region = wanted.get("region");
      row.hidden =
        (measure && row.dataset.measure !== measure) ||
        (region && row.dataset.region !== region) ||
        (wanted.get("clear") && row.dataset.clear !== "yes");
      count += !row.hidden;
    }
    shown.textContent = `${count} of ${table.tBodies[0].rows.length} rows`;
  }
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}

const PLANES = {
  coronal: { axis: 1, rows: 0, columns: 2, flipped: true, ends: ["R", "L", "S", "I"] },
  axial: { axis: 0, rows: 1, columns: 2, flipped: false, ends: ["R", "L", "A", "P"] },
  sagittal: { axis: 2, rows: 0, columns: 1, flipped: true, ends: ["A", "P", "S", "I"] },
};

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/* Low bytes, then high bytes, to int16 times a step: see viewer.py. */
async function unpack(text, step) {
  const planes = await inflate(text);
  const size = planes.length / 2;
  const volume = new Int16Array(size);
  for (let i = 0; i < size; i += 1) {
    volume[i] = (((planes[i] | (planes[size + i] << 8)) << 16) >> 16) * step;
  }
  return volume;
}

function signed(value) {
  const text = Math.abs(value).toFixed(0);
  return (value < 0 && text !== "0" ? "−" : value > 0 ? "+" : "") + text;
}

function plainHU(value) {
  return (value < 0 ? "−" : "") + Math.abs(value).toFixed(0);
}

class Viewer {
  constructor(root, settings) {
    this.root = root;
    this.settings = settings;
    this.plane = "coronal";
    this.window = "Lung";
    this.limit = settings.limit_hu;
    this.colours = settings.colours.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
    this.cache = new Map();
    this.at = null;
    this.panels = [...root.querySelectorAll(".panel")].map((panel) => ({
      name: panel.dataset.panel,
      element: panel,
      canvas: panel.querySelector("canvas"),
      readout: panel.querySelector("output"),
      image: document.createElement("canvas"),
      overlay: document.createElement("canvas"),
    }));
    this.slider = root.querySelector("input[type=range]");
    this.place = root.querySelector(".place");
    this.listen();
  }

  listen() {
    const { root } = this;
    const on = (name, set) => {
      for (const input of root.querySelectorAll(`[name=${name}]`)) {
        input.addEventListener("change", () => { set(input.value); });
      }
    };
    on("subject", (value) => this.show(Number(value)));
    on("plane", (value) => { this.plane = value; this.moveTo(this.pair.centre[PLANES[value].axis], true); });
    on("window", (value) => { this.window = value; this.paint(); });
    root.querySelector("[name=large]").addEventListener("change", (event) => {
      root.querySelector(".panels").classList.toggle("large", event.target.checked);
    });
    on("limit", (value) => { this.limit = Number(value); this.scale(); this.paint(); });
    this.slider.addEventListener("input", () => this.moveTo(Number(this.slider.value)));
    const stage = root.querySelector(".panels");
    stage.addEventListener("keydown", (event) => this.key(event));
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    for (const panel of this.panels) {
      panel.canvas.addEventListener("pointermove", (event) => this.point(event, panel.canvas));
      panel.canvas.addEventListener("pointerdown", (event) => this.point(event, panel.canvas));
      panel.canvas.addEventListener("pointerleave", () => { this.at = null; this.compose(); });
    }
    new ResizeObserver(() => this.compose()).observe(stage);
  }

  async show(index) {
    if (!this.cache.has(index)) {
      const pair = JSON.parse(document.getElementById(`pair-${index}`).textContent);
      const step = this.settings.step_hu;
      const [reference, difference, lung, real, shown] = await Promise.all([
        unpack(pair.volumes.reference, step),
        unpack(pair.volumes.difference, 1),
        unpack(pair.volumes.lung, 1),
        pair.volumes.real ? unpack(pair.volumes.real, step) : null,
        // Where both arms were cut off, the colours come from the neighbours; readings do not.
        pair.volumes.shown ? unpack(pair.volumes.shown, 1) : null,
      ]);
      const target = reference.map((value, i) => value + difference[i]);
      this.cache.set(index, { ...pair, volumes: { reference, target, difference, lung, real, shown: shown || difference } });
    }
    const first = !this.pair;
    const keep = this.pair && this.slice / (this.depth() - 1);
    this.pair = this.cache.get(index);
    for (const panel of this.panels) {
      if (panel.name === "real") panel.element.hidden = !this.pair.volumes.real;
    }
    this.describe();
    const centre = this.pair.centre[PLANES[this.plane].axis];
    this.moveTo(first ? centre : Math.round(keep * (this.depth() - 1)), true);
    this.scale();
  }

  depth() { return this.pair.shape[PLANES[this.plane].axis]; }

  moveTo(slice, force = false) {
    const next = Math.min(Math.max(slice, 0), this.depth() - 1);
    if (next === this.slice && !force) return;
    this.slice = next;
    this.slider.max = this.depth() - 1;
    this.slider.value = next;
    const mm = next * this.pair.spacing_mm[PLANES[this.plane].axis];
    this.place.textContent = `Slice ${next + 1} of ${this.depth()}, ${mm.toFixed(0)} mm`;
    this.slider.setAttribute("aria-valuetext", this.place.textContent);
    this.paint();
  }

  key(event) {
    const steps = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5,
      Home: -1e6, End: 1e6 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.moveTo(this.slice + steps[event.key]);
  }

  wheel(event) {
    if (event.ctrlKey || !event.deltaY) return;
    // At either end the page goes on scrolling.
    if (this.slice === (event.deltaY > 0 ? 0 : this.depth() - 1)) return;
    event.preventDefault();
    // A notch of a wheel is about 100 pixels, a trackpad sends many small ones.
    this.rolled = (this.rolled || 0) + (event.deltaMode ? Math.sign(event.deltaY) * 90 : event.deltaY);
    const steps = Math.trunc(this.rolled / 90);
    this.rolled -= steps * 90;
    if (steps) this.moveTo(this.slice - Math.sign(steps) * Math.min(Math.abs(steps), 3));
  }

  /* Index of the voxel under row and column of the slice shown. */
  voxel(row, column) {
    const { axis, rows, columns, flipped } = PLANES[this.plane];
    const { shape } = this.pair;
    const place = [0, 0, 0];
    place[axis] = this.slice;
    place[rows] = flipped ? shape[rows] - 1 - row : row;
    place[columns] = column;
    return (place[0] * shape[1] + place[1]) * shape[2] + place[2];
  }

  point(event, canvas) {
    const box = canvas.getBoundingClientRect();
    const [height, width] = this.size();
    const column = Math.floor(((event.clientX - box.left) / box.width) * width);
    const row = Math.floor(((event.clientY - box.top) / box.height) * height);
    this.at = row >= 0 && row < height && column >= 0 && column < width ? [row, column] : null;
    this.compose();
  }

  size() {
    const { rows, columns } = PLANES[this.plane];
    return [this.pair.shape[rows], this.pair.shape[columns]];
  }

  /* Colour the slice of every panel at the size of the grid. */
  paint() {
    const [height, width] = this.size();
    const [low, high] = this.settings.windows_hu[this.window];
    for (const panel of this.panels) {
      const isDifference = panel.name === "difference";
      const volume = this.pair.volumes[isDifference ? "reference" : panel.name];
      if (!volume) continue;
      const dim = isDifference ? 0.45 : 1;
      this.raster(panel.image, width, height, (voxel) => {
        const grey = dim * 255 * Math.min(Math.max((volume[voxel] - low) / (high - low), 0), 1);
        return [grey, grey, grey, 255];
      });
      if (isDifference) this.raster(panel.overlay, width, height, (voxel) => this.tint(voxel));
    }
    this.compose();
  }

  tint(voxel) {
    const { shown, lung } = this.pair.volumes;
    if (!lung[voxel]) return [0, 0, 0, 0];
    const share = Math.min(Math.max(shown[voxel] / this.limit, -1), 1);
    const colour = this.colours[Math.round(((share + 1) / 2) * (this.colours.length - 1))];
    return [...colour, 255];
  }

  raster(canvas, width, height, colour) {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    for (let row = 0, i = 0; row < height; row += 1) {
      for (let column = 0; column < width; column += 1, i += 4) {
        image.data.set(colour(this.voxel(row, column)), i);
      }
    }
    context.putImageData(image, 0, 0);
  }

  /* Draw the coloured slices, smoothly enlarged, with the shape they have in the body. */
  compose() {
    if (!this.pair) return;
    const { rows, columns } = PLANES[this.plane];
    const [height, width] = this.size();
    const aspect = (height * this.pair.spacing_mm[rows]) / (width * this.pair.spacing_mm[columns]);
    for (const panel of this.panels) {
      const { canvas, image, overlay, name } = panel;
      if (panel.element.hidden) continue;
      // As wide as the column, but never taller than fits on the screen with its slider.
      const shown = Math.min(panel.element.clientWidth, (0.62 * window.innerHeight) / aspect);
      const wide = Math.round(shown * (window.devicePixelRatio || 1));
      canvas.style.width = `${shown}px`;
      canvas.width = wide;
      canvas.height = Math.round(wide * aspect);
      const context = canvas.getContext("2d");
      context.imageSmoothingEnabled = true;
      context.imageSmoothingQuality = "high";
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      if (name === "difference") context.drawImage(overlay, 0, 0, canvas.width, canvas.height);
      this.letters(context);
      if (this.at) this.cross(context, height, width);
      panel.readout.textContent = this.reading(name);
    }
  }

  letters(context) {
    const { width, height } = context.canvas;
    const size = Math.max(11, Math.round(width / 24));
    const [left, right, top, bottom] = PLANES[this.plane].ends;
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.fillStyle = "#fff";
    context.strokeStyle = "#000";
    context.lineWidth = size / 5;
    const put = (text, x, y, align, baseline) => {
      context.textAlign = align;
      context.textBaseline = baseline;
      context.strokeText(text, x, y);
      context.fillText(text, x, y);
    };
    put(left, size / 2, height / 2, "left", "middle");
    put(right, width - size / 2, height / 2, "right", "middle");
    put(top, width / 2, size / 2, "center", "top");
    put(bottom, width / 2, height - size / 2, "center", "bottom");
  }

  cross(context, height, width) {
    const x = ((this.at[1] + 0.5) / width) * context.canvas.width;
    const y = ((this.at[0] + 0.5) / height) * context.canvas.height;
    context.strokeStyle = "rgba(255, 221, 120, .75)";
    context.lineWidth = Math.max(1, context.canvas.width / 400);
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, context.canvas.height);
    context.moveTo(0, y);
    context.lineTo(context.canvas.width, y);
    context.stroke();
  }

  /* The HU under the cross; without one, the mean over the lungs. */
  reading(name) {
    const { volumes, mean_hu: means } = this.pair;
    const written = (value) => (name === "difference" ? signed(value) : plainHU(value));
    if (this.at) return `${written(volumes[name][this.voxel(...this.at)])} HU here`;
    return means[name] === null ? "" : `lungs ${written(means[name])} HU`;
  }

  scale() {
    const { root, limit } = this;
    const bar = root.querySelector(".scale i");
    bar.style.background = `linear-gradient(90deg, ${this.settings.colours.filter((_, i) => i % 8 === 0).join(", ")})`;
    root.querySelector(".scale .low").textContent = `−${limit} HU`;
    root.querySelector(".scale .high").textContent = `+${limit} HU`;
  }

  /* Both sentences, the words that only one of them has marked. */
  describe() {
    const sentences = this.pair.sentences.map((text) => text.split(/\s+/));
    this.root.querySelectorAll(".sentences span").forEach((span, i) => {
      const other = new Set(sentences[1 - i]);
      span.replaceChildren();
      for (const word of sentences[i]) {
        if (other.has(word)) span.append(word, " ");
        else {
          const mark = document.createElement("mark");
          mark.textContent = word;
          span.append(mark, " ");
        }
      }
    });
  }
}

function followReading(links) {
  const byId = new Map(links.map((link) => [link.hash.slice(1), link]));
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links) link.removeAttribute("aria-current");
      byId.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  for (const id of byId.keys()) observer.observe(document.getElementById(id));
}

function start() {
  document.querySelectorAll("table[data-sortable]").forEach(makeSortable);
  document.querySelectorAll("form.filters").forEach(makeFilter);
  followReading([...document.querySelectorAll("nav.contents a")]);
  document.documentElement.classList.add("js");
  const root = document.getElementById("viewer");
  if (!root) return;
  if (!("DecompressionStream" in window)) {
    document.documentElement.classList.add("no-viewer");
    return;
  }
  const settings = JSON.parse(document.getElementById("viewer-settings").textContent);
  window.viewer = new Viewer(root, settings);
  window.viewer.show(0);
}

start();
