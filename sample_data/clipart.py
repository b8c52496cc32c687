"""Clip art with variety: six classes, five kinds of foreign pictures, and what a camera adds to them.

One function per thing drawn. Shape tells the classes apart; colour helps, but not always.
"""

import colorsys
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

FINE = 3  # everything is drawn three times as large, then reduced: smooth edges without the library's own
Rng = np.random.Generator
Colour = tuple[int, int, int]


class Pen:
    """Draws in a square of side 2 around the origin, moved, turned, mirrored and scaled onto the canvas."""

    def __init__(self, canvas: Image.Image, rng: Rng, main: Colour, turn_degrees: float):
        self.draw, self.rng, self.main = ImageDraw.Draw(canvas), rng, main
        self.accents = [colour(rng) for _ in range(3)]
        half = np.array(canvas.size) / 2
        self.scale = half.min() * rng.uniform(0.86, 0.97)
        self.centre = half + rng.uniform(-1, 1, 2) * (half - self.scale) * 0.9
        turn = np.deg2rad(rng.uniform(-turn_degrees, turn_degrees))
        self.turn = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        self.mirror = np.array([rng.choice([-1.0, 1.0]), 1.0])

    def place(self, points) -> list[tuple[float, float]]:
        return [tuple(p) for p in (np.array(points, float) * self.mirror) @ self.turn.T * self.scale + self.centre]

    def area(self, points, fill: Colour) -> None:
        self.draw.polygon(self.place(points), fill=fill)

    def line(self, points, fill: Colour, width: float) -> None:
        self.draw.line(self.place(points), fill=fill, width=max(2, round(width * self.scale)), joint="curve")

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        self.area([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def disc(self, x: float, y: float, rx: float, fill: Colour, ry: float | None = None) -> None:
        self.area(arc(x, y, rx, 0, 360, ry), fill)


def arc(x: float, y: float, rx: float, start: float, end: float, ry: float | None = None) -> list[tuple[float, float]]:
    turns = np.deg2rad(np.linspace(start, end, 40))
    return [(x + rx * np.cos(t), y + (rx if ry is None else ry) * np.sin(t)) for t in turns]


def colour(
    rng: Rng,
    hue: float | None = None,
    vivid: tuple[float, float] = (0.5, 1),
    bright: tuple[float, float] = (0.35, 0.95),
) -> Colour:
    hue = rng.uniform() if hue is None else rng.normal(hue, 0.03)
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue % 1, rng.uniform(*vivid), rng.uniform(*bright)))


def darker(fill: Colour, by: float) -> Colour:
    return tuple(round(v * by) for v in fill)


# --- the six classes ---------------------------------------------------------------------------------------------


def sun(pen: Pen, rng: Rng) -> None:
    radius, count = rng.uniform(0.38, 0.56), rng.integers(8, 15)
    thick, wedge = rng.uniform(0.05, 0.12), rng.uniform() < 0.5
    for t in np.arange(count) * 2 * np.pi / count:
        out, side = np.array([np.cos(t), np.sin(t)]), np.array([-np.sin(t), np.cos(t)])
        near, far = out * (radius + 0.1), out * rng.uniform(0.85, 1)
        if wedge:
            pen.area([near + side * thick * 1.4, far, near - side * thick * 1.4], pen.main)
        else:
            pen.line([near, far], pen.main, thick)
    pen.disc(0, 0, radius, pen.main)


def tree(pen: Pen, rng: Rng) -> None:
    width, crown_end = rng.uniform(0.08, 0.17), rng.uniform(0.25, 0.45)
    pen.box(-width, crown_end - 0.2, width, 1, darker(colour(rng, 0.08), 0.7))
    if rng.uniform() < 0.5:  # a conifer: tiers, wider towards the ground
        tiers, rise = rng.integers(2, 5), crown_end + 1
        for k in range(tiers):
            top, half = k / (tiers + 0.6) * rise - 1, rng.uniform(0.4, 0.5) + 0.3 * k / tiers
            foot = min(crown_end, top + 1.6 * rise / (tiers + 0.6))
            pen.area([(0, top), (half, foot), (-half, foot)], darker(pen.main, 1 - 0.08 * k))
    else:  # a leafy crown: a heap of discs
        for _ in range(rng.integers(5, 10)):
            x, y = rng.uniform(-0.42, 0.42), rng.uniform(-0.65, crown_end - 0.3)
            pen.disc(x, y, rng.uniform(0.28, 0.42), darker(pen.main, rng.uniform(0.8, 1)))


def house(pen: Pen, rng: Rng) -> None:
    wall, eaves, half = pen.main, rng.uniform(-0.3, 0.05), rng.uniform(0.6, 0.85)
    if rng.uniform() < 0.5:
        pen.box(half * 0.4, -0.9, half * 0.65, eaves, darker(wall, 0.5))
    pen.box(-half, eaves, half, 0.95, wall)
    flat = rng.uniform(0, 0.35)  # the ridge: from a gable to a hipped roof
    pen.area([(-half - 0.14, eaves), (-flat, -0.95), (flat, -0.95), (half + 0.14, eaves)], pen.accents[0])
    door = rng.choice([-0.45, 0.0, 0.45]) * half
    pen.box(door - 0.14, 0.35, door + 0.14, 0.95, darker(pen.accents[1], 0.6))
    for x in (-0.5, 0.5):
        if abs(x * half - door) > 0.3 or rng.uniform() < 0.3:
            pen.box(x * half - 0.15, eaves + 0.15, x * half + 0.15, eaves + 0.42, pen.accents[2])


def fish(pen: Pen, rng: Rng) -> None:
    tall, tail, fork = rng.uniform(0.3, 0.52), rng.uniform(0.28, 0.5), rng.uniform(0.05, 0.25)
    fin = darker(pen.main, 0.75)
    pen.area([(0.35, 0), (1, -tail), (1 - fork, 0), (1, tail)], fin)
    pen.area([(-0.25, -tall * 0.8), (0.1, -tall - rng.uniform(0.12, 0.3)), (0.35, -tall * 0.5)], fin)
    pen.disc(-0.2, 0, 0.75, pen.main, tall)
    for x in np.linspace(-0.3, 0.25, rng.integers(0, 4)):
        bend = tall * 0.8 * np.sqrt(max(0.0, 1 - ((x + 0.2) / 0.75) ** 2))
        pen.line([(x, -bend), (x + 0.06, 0), (x, bend)], pen.accents[0], 0.09)
    pen.disc(-0.62, -0.1, 0.11, (250, 250, 250))
    pen.disc(-0.64, -0.1, 0.055, (15, 15, 15))


def star(pen: Pen, rng: Rng) -> None:
    inner, points = rng.uniform(0.36, 0.5), 5
    turns = np.arange(2 * points) * np.pi / points + rng.uniform(0, 2 * np.pi)
    shape = np.stack([np.cos(turns), np.sin(turns)], 1) * np.where(np.arange(2 * points) % 2, inner, 1)[:, None]
    pen.area(shape, pen.main)
    style = rng.uniform()
    if style < 0.3:
        pen.area(shape * rng.uniform(0.5, 0.7), pen.accents[0])
    elif style < 0.55:  # each ray half in the shade
        for k in range(0, 2 * points, 2):
            pen.area([(0, 0), shape[k], shape[k + 1]], darker(pen.main, 0.7))


def car(pen: Pen, rng: Rng) -> None:
    roof, belt, wheel = rng.uniform(-0.6, -0.4), rng.uniform(-0.1, 0.02), rng.uniform(0.19, 0.27)
    front, back = rng.uniform(-0.55, -0.3), rng.uniform(0.35, 0.8)
    pen.area([(front - 0.22, belt), (front, roof), (back, roof), (back + rng.uniform(0, 0.2), belt)], pen.main)
    middle, glass = (front + back) / 2, (205, 225, 240)
    pen.area(
        [(front - 0.1, belt), (front + 0.04, roof + 0.1), (middle - 0.05, roof + 0.1), (middle - 0.05, belt)], glass
    )
    pen.box(middle + 0.05, roof + 0.1, back - 0.04, belt, glass)
    pen.area([(-1, belt + 0.1), (-0.9, belt), (1, belt), (1, 0.45), (-1, 0.45)], darker(pen.main, 0.92))
    pen.box(-1, belt + 0.14, -0.88, belt + 0.26, (250, 240, 160))
    for x in (-0.55, 0.55):
        pen.disc(x, 0.45, wheel, (25, 25, 28))
        pen.disc(x, 0.45, wheel * 0.45, (190, 190, 190))


# --- what else the web sends -------------------------------------------------------------------------------------


def banner(pen: Pen, rng: Rng) -> None:
    pen.box(-1, -0.6, 1, 0.6, pen.main)
    ink, rows = pen.accents[0], rng.integers(1, 4)
    for y in np.linspace(-0.6, 0.6, rows + 2)[1:-1]:
        tall, x = 0.32 / rows + 0.05, -0.85
        while x < 0.75:  # letters of a script nobody reads: strokes between the nodes of a small grid
            grid = [(x + dx, y + dy) for dx in (0, tall) for dy in (-tall, 0, tall)]
            pen.line([grid[i] for i in rng.permutation(6)[: rng.integers(3, 5)]], ink, 0.06)
            x += tall * rng.uniform(1.6, 2.1)


def chart(pen: Pen, rng: Rng) -> None:
    pen.line([(-0.9, -0.9), (-0.9, 0.9), (0.95, 0.9)], (30, 30, 30), 0.06)
    for x in np.linspace(-0.7, 0.7, rng.integers(4, 7)):
        pen.box(x - 0.1, rng.uniform(-0.8, 0.6), x + 0.1, 0.87, pen.main if rng.uniform() < 0.6 else pen.accents[0])


def stripes(pen: Pen, rng: Rng) -> None:
    angle, wave, thick = rng.uniform(0, np.pi), rng.uniform(0, 0.2), rng.uniform(0.1, 0.2)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    for k in np.arange(-2.4, 2.4, thick * rng.uniform(1.8, 2.6)):
        pen.line([along * s + across * (k + wave * np.sin(4 * s)) for s in np.linspace(-2.5, 2.5, 40)], pen.main, thick)


def checkerboard(pen: Pen, rng: Rng) -> None:
    count = rng.integers(4, 8)
    step = 2 / count
    for i, j in np.ndindex(count, count):
        fill = pen.main if (i + j) % 2 else pen.accents[0]
        pen.box(-1 + i * step, -1 + j * step, -1 + (i + 1) * step, -1 + (j + 1) * step, fill)


def face(pen: Pen, rng: Rng) -> None:
    pen.disc(0, 0, rng.uniform(0.7, 0.85), pen.main, 0.9)
    for x in (-0.3, 0.3):
        pen.disc(x, -0.2, 0.14, (250, 250, 250))
        pen.disc(x + rng.uniform(-0.05, 0.05), -0.2, 0.07, (20, 20, 20))
    mood = rng.uniform(-0.25, 0.35)
    pen.line(arc(0, 0.4 - mood / 2, 0.38, 10, 170, mood), darker(pen.main, 0.35), 0.08)
    if rng.uniform() < 0.6:
        pen.area(arc(0, -0.35, 0.78, 180, 360, 0.62), pen.accents[0])


# Name → (how it is drawn, the hue it often has, how far it may lean).
CLASSES: dict[str, tuple[Callable, float, float]] = {
    "car": (car, 0.98, 10),
    "fish": (fish, 0.56, 20),
    "house": (house, 0.06, 8),
    "star": (star, 0.82, 20),
    "sun": (sun, 0.13, 180),
    "tree": (tree, 0.33, 10),
}
FOREIGN: tuple[Callable, ...] = (banner, chart, stripes, checkerboard, face)


def backdrop(rng: Rng, width: int, height: int, avoid: Colour) -> Image.Image:
    """Flat, shaded, cloudy, dotted or ruled; paler, and never as bright as the thing in front of it."""
    tones = [colour(rng, vivid=(0, 0.3), bright=(0.6, 1)) for _ in range(60)]
    light = np.array([3, 6, 1])  # whole numbers: a tie falls alike on every machine
    first, second, *_ = sorted(tones, key=lambda c: abs((np.array(c) - avoid) @ light) < 900)
    kind, y, x = rng.integers(5), *np.mgrid[0:height, 0:width]
    turn = rng.uniform(0, 2 * np.pi)
    slope = (np.cos(turn) * (x / width - 0.5) + np.sin(turn) * (y / height - 0.5)) * 0.7 + 0.5
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5), dtype=np.uint8))
    clouds = coarse.resize((width, height), Image.Resampling.BICUBIC)
    period = rng.uniform(18, 40)
    dots = (np.hypot(x % period - period / 2, y % period - period / 2) < period * 0.22) * 0.5
    rules = ((x * np.cos(turn) + y * np.sin(turn)) % period < period * 0.3) * 0.4
    mix = (np.zeros((height, width)), slope, np.asarray(clouds) / 255, dots, rules)[kind][..., None] * 0.6
    return Image.fromarray((np.array(first) * (1 - mix) + np.array(second) * mix).astype(np.uint8))


def photograph(canvas: Image.Image, rng: Rng) -> Image.Image:
    """What a camera and a web server add: lighting, blur and noise."""
    small = canvas.reduce(FINE)
    if rng.uniform() < 0.3:
        small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1)))
    y, x = np.mgrid[0 : small.height, 0 : small.width]
    turn = rng.uniform(0, 2 * np.pi)
    light = np.cos(turn) * (x / small.width - 0.5) + np.sin(turn) * (y / small.height - 0.5)
    pixels = np.asarray(small, float) * (rng.uniform(0.8, 1.15) + rng.uniform(0, 0.5) * light[..., None])
    return Image.fromarray((pixels + rng.normal(0, rng.uniform(0, 9), pixels.shape)).clip(0, 255).astype(np.uint8))


def picture(draw: Callable, rng: Rng, hue: float | None = None, lean: float = 15) -> Image.Image:
    main = colour(rng, hue if rng.uniform() < 0.97 else None)  # colour helps, but not always
    width, height = (int(side) for side in rng.integers(64, 97, 2) * FINE)
    canvas = backdrop(rng, width, height, main)
    draw(Pen(canvas, rng, main, lean), rng)
    return photograph(canvas, rng)
