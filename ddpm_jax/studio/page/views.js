// What is drawn on canvases. Nothing here knows the server.

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export function floats(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

export function picture(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = url;
  });
}

// A board of touching pictures, enlarged by a whole factor with gaps between them.
export function drawBoard(canvas, image, layout) {
  const [height, width] = layout.shape, { columns, num } = layout;
  const rows = Math.ceil(num / columns), gap = 2;
  const scale = Math.max(1, Math.floor(560 / (columns * width)));
  canvas.width = columns * (width * scale + gap) - gap;
  canvas.height = rows * (height * scale + gap) - gap;
  canvas.style.aspectRatio = `${canvas.width} / ${canvas.height}`;
  const pen = canvas.getContext("2d");
  pen.fillStyle = colour("rule");
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingEnabled = false;
  for (let i = 0; i < num; i++) {
    const x = i % columns, y = Math.floor(i / columns);
    pen.drawImage(image, x * width, y * height, width, height,
      x * (width * scale + gap), y * (height * scale + gap), width * scale, height * scale);
  }
}

export function plane(canvas, reach, side = 560) {
  canvas.width = canvas.height = side;
  canvas.style.aspectRatio = "1";
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, side, side);
  return [pen, (v) => (v / reach + 1) * side / 2, (v) => (1 - v / reach) * side / 2];
}

export function reachOf(points) {
  const sizes = Float32Array.from(points, Math.abs).filter(Number.isFinite).sort();
  return sizes.length ? 1.15 * sizes[Math.floor(0.995 * (sizes.length - 1))] + 1e-6 : 1;
}

export function drawPoints(canvas, points, reach, extras = {}) {
  const [pen, toX, toY] = plane(canvas, reach);
  if (extras.density) drawDensity(pen, points, reach);
  if (extras.lines) drawLines(pen, extras.lines, toX, toY);
  pen.fillStyle = colour("main");
  pen.globalAlpha = extras.density || extras.lines ? 0.45 : 0.75;
  for (let i = 0; i < points.length; i += 2) pen.fillRect(toX(points[i]) - 1.5, toY(points[i + 1]) - 1.5, 3, 3);
  pen.globalAlpha = 1;
  if (extras.score) drawArrows(pen, extras.score, reach, toX, toY);
}

function drawLines(pen, frames, toX, toY) {
  pen.strokeStyle = colour("mark");
  pen.globalAlpha = 0.5;
  const count = Math.min(frames[0].length, 2 * 100);
  for (let i = 0; i < count; i += 2) {
    pen.beginPath();
    for (const points of frames) pen.lineTo(toX(points[i]), toY(points[i + 1]));
    pen.stroke();
  }
}

// The density of the points: each counts in its cell, and a binomial filter smooths the counts.
function drawDensity(pen, points, reach, cells = 70) {
  let counts = new Float32Array(cells * cells);
  for (let i = 0; i < points.length; i += 2) {
    const x = Math.floor((points[i] / reach + 1) * cells / 2), y = Math.floor((1 - points[i + 1] / reach) * cells / 2);
    if (x >= 0 && x < cells && y >= 0 && y < cells) counts[y * cells + x] += 1;
  }
  for (const step of [1, cells, 1, cells, 1, cells]) {
    const old = counts;
    counts = old.map((v, i) => (2 * v + (old[i - step] ?? 0) + (old[i + step] ?? 0)) / 4);
  }
  const most = Math.max(...counts), side = pen.canvas.width / cells;
  pen.fillStyle = colour("main");
  counts.forEach((v, i) => {
    pen.globalAlpha = 0.7 * Math.sqrt(v / most);
    pen.fillRect((i % cells) * side, Math.floor(i / cells) * side, side + 0.5, side + 0.5);
  });
  pen.globalAlpha = 1;
}

function drawArrows(pen, { points, score }, reach, toX, toY) {
  let longest = 1e-9;
  for (let i = 0; i < score.length; i += 2) longest = Math.max(longest, Math.hypot(score[i], score[i + 1]));
  pen.strokeStyle = pen.fillStyle = colour("mark");
  for (let i = 0; i < score.length; i += 2) {
    const size = Math.hypot(score[i], score[i + 1]) || 1;
    // The root of the length, so that the short arrows near the data can be seen.
    const length = reach * 0.09 * Math.sqrt(size / longest);
    const x = toX(points[i]), y = toY(points[i + 1]);
    const endX = toX(points[i] + score[i] / size * length), endY = toY(points[i + 1] + score[i + 1] / size * length);
    pen.beginPath();
    pen.moveTo(x, y);
    pen.lineTo(endX, endY);
    pen.stroke();
    pen.fillRect(endX - 2, endY - 2, 4, 4);
  }
}

export function drawLoss(canvas, losses) {
  const pen = canvas.getContext("2d"), { width, height } = canvas, left = 52, low = height - 22;
  pen.clearRect(0, 0, width, height);
  if (losses.length < 2) return;
  const logs = losses.map(([, loss]) => Math.log10(Math.max(loss, 1e-12)));
  const [least, most] = [Math.min(...logs), Math.max(...logs)], last = losses.at(-1)[0];
  const x = (step) => left + step / last * (width - left - 8);
  const y = (v) => 10 + (most - v) / (most - least || 1) * (low - 16);
  pen.font = "12px system-ui, sans-serif";
  pen.fillStyle = colour("soft");
  pen.textAlign = "right";
  pen.fillText((10 ** most).toPrecision(2), left - 6, y(most) + 4);
  pen.fillText((10 ** least).toPrecision(2), left - 6, y(least) + 4);
  pen.fillText(`step ${last.toLocaleString("en")}`, width - 8, height - 6);
  pen.strokeStyle = colour("line");
  pen.lineWidth = 1;
  pen.strokeRect(left, 4, width - left - 8, low - 4);
  pen.strokeStyle = colour("main");
  pen.lineWidth = 2;
  pen.beginPath();
  losses.forEach(([step], i) => pen.lineTo(x(step), y(logs[i])));
  pen.stroke();
}

// A canvas on which people draw: with a pointer, or with the arrow keys and space.
// put(x, y, begins) gets places in 0 … 1, and `begins` where a line starts.
export function drawable(canvas, put, { step = 0.03, moved = () => {} } = {}) {
  const pen = { x: 0.5, y: 0.5, down: false };
  let begins = true;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    pen.x = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    pen.y = Math.min(1, Math.max(0, (event.clientY - box.top) / box.height));
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    at(event);
    put(pen.x, pen.y, true);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!event.buttons) return;
    at(event);
    put(pen.x, pen.y, false);
  });
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === " ") {
      pen.down = !pen.down;
      begins = true;
    } else if (way) {
      pen.x = Math.min(1, Math.max(0, pen.x + way[0] * step));
      pen.y = Math.min(1, Math.max(0, pen.y + way[1] * step));
    } else return;
    event.preventDefault();
    if (pen.down) put(pen.x, pen.y, begins);
    begins = begins && !pen.down;
    moved(pen);
  });
  canvas.addEventListener("blur", () => { pen.down = false; });
  return pen;
}
