"""Jo-SRC (Yao et al., CVPR 2021), Eq. 2-12 and Algorithm 1, written from the paper in float64 numpy.

Distributions are rows: arrays of shape (..., C). Labels count from 0, epochs from 1.
"""

from dataclasses import dataclass

import numpy as np


def softmax(z):
    e = np.exp(z - np.max(z, axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _kl_terms(p, q):
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * (np.log2(p) - np.log2(q)), 0.0)


def kl(p, q):
    """The Kullback-Leibler divergence of Eq. 2 and 9, in bits, with 0·log 0 = 0."""
    return _kl_terms(p, q).sum(axis=-1)


def js_divergence(p, y):
    """Eq. 2, in bits."""
    m = (np.asarray(p, dtype=np.float64) + np.asarray(y, dtype=np.float64)) / 2
    return kl(p, m) / 2 + kl(y, m) / 2


def clean_likelihood(p, y):
    """Eq. 3."""
    return 1 - js_divergence(p, y)


def ood_likelihood(p, p_prime):
    """Eq. 4."""
    return np.minimum(1.0, np.abs(np.argmax(p, axis=-1) - np.argmax(p_prime, axis=-1)))


def smooth_labels(labels, n_classes, epsilon):
    """Eq. 5."""
    given = np.asarray(labels)[..., None] == np.arange(n_classes)
    return np.where(given, 1 - epsilon, epsilon / (n_classes - 1))


def teacher_labels(q, q_prime):
    """Eq. 6."""
    # The paper writes p(x, θ_mt) and leaves the view open: here, the mean of the teacher's predictions on both.
    return (np.asarray(q, dtype=np.float64) + np.asarray(q_prime, dtype=np.float64)) / 2


def flatten_labels(q, scale):
    """Eq. 7: a softmax of the teacher's probabilities, not of its logits."""
    return softmax(np.asarray(q, dtype=np.float64) / scale)


def ema(theta_mt, theta, omega):
    """Eq. 8."""
    return omega * theta_mt + (1 - omega) * theta


def consistency_loss(p, p_prime, rho):
    """Eq. 9."""
    # The paper gives no unit: the divergence is in bits, as in Eq. 2, and the cross-entropy of Eq. 11 in nats.
    return np.mean(rho * (kl(p, p_prime) + kl(p_prime, p)))


def consistency_gradient(p, p_prime, rho):
    """Eq. 9 differentiated by the logits of each view.

    With D = KL(p‖p') + KL(p'‖p) in nats, ∂D/∂p = log(p/p') + 1 - p'/p. The softmax takes a gradient g to
    p·(g - Σ p·g), so ∂D/∂z = p·log(p/p') - p·KL(p‖p') + p - p'; for z', p and p' change places.
    """

    def by_logits(a, b):
        terms = _kl_terms(a, b)
        return terms - a * terms.sum(axis=-1, keepdims=True) + (a - b) / np.log(2)

    weight = np.asarray(rho, dtype=np.float64)[:, None] / len(p)
    return weight * by_logits(p, p_prime), weight * by_logits(p_prime, p)


def joint_loss(lc, lo, alpha):
    """Eq. 10."""
    return (1 - alpha) * lc + alpha * lo


def classification_loss(targets, p, p_prime):
    """Eq. 11, in nats."""
    # In print both terms hold p: the prime of the second is lost.
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(np.asarray(targets) > 0, targets * (np.log(p) + np.log(p_prime)), 0.0)
    return -np.mean(terms.sum(axis=-1))


def classification_gradient(targets, p, p_prime):
    """Eq. 11 differentiated by the logits of each view."""
    return (p - targets) / len(p), (p_prime - targets) / len(p)


def clean_threshold(t, warmup_epochs, epochs, tau_c, tau_m):
    """Eq. 12."""
    if t <= warmup_epochs:
        return t / warmup_epochs * tau_c
    return (t - warmup_epochs) * (tau_m - tau_c) / (epochs - warmup_epochs) + tau_c


def partition(p_clean, p_ood, tau_clean):
    """Criteria 3.1 and 3.2: the masks (clean, ID, OOD)."""
    clean = np.asarray(p_clean) > tau_clean
    disagree = np.asarray(p_ood) > 0.5  # P_ood is 0 or 1: every τ_ood in (0, 1) gives the same answer
    return clean, ~clean & ~disagree, ~clean & disagree


@dataclass
class LinearJoSRC:
    """Algorithm 1 for the model p = softmax(W x + b)."""

    W: np.ndarray
    b: np.ndarray
    epsilon: float
    alpha: float
    omega: float
    scale: float
    tau_c: float
    tau_m: float
    warmup_epochs: int
    epochs: int
    lr: float
    W_mt: np.ndarray | None = None
    b_mt: np.ndarray | None = None

    def __post_init__(self):
        self.W_mt, self.b_mt = (self.W, self.b) if self.W_mt is None else (self.W_mt, self.b_mt)
        for name in ("W", "b", "W_mt", "b_mt"):
            setattr(self, name, np.array(getattr(self, name), dtype=np.float64))

    def select(self, x, x_prime, labels, t):
        """The constants of a step: targets, P_clean and the masks (clean, ID, OOD)."""
        p, p_prime = softmax(x @ self.W.T + self.b), softmax(x_prime @ self.W.T + self.b)
        q, q_prime = softmax(x @ self.W_mt.T + self.b_mt), softmax(x_prime @ self.W_mt.T + self.b_mt)
        given, pseudo = smooth_labels(labels, len(self.b), self.epsilon), teacher_labels(q, q_prime)
        p_clean = clean_likelihood(p, given)
        tau_clean = clean_threshold(t, self.warmup_epochs, self.epochs, self.tau_c, self.tau_m)
        masks = clean, _, ood = partition(p_clean, ood_likelihood(p, p_prime), tau_clean)
        # Eq. 7 leaves the view open as Eq. 6 does, and takes the same mean.
        relabeled = np.where(ood[:, None], flatten_labels(pseudo, self.scale), pseudo)
        return np.where(clean[:, None], given, relabeled), p_clean, masks

    def objective(self, x, x_prime, targets, masks, t):
        """The loss and its gradients by W and b."""
        clean, _, ood = masks
        warm_up = t < self.warmup_epochs  # at t = t_w Algorithm 1 already takes the joint loss
        if warm_up:
            x, x_prime, targets = x[clean], x_prime[clean], targets[clean]
        if len(x) == 0:
            return 0.0, np.zeros_like(self.W), np.zeros_like(self.b)
        p, p_prime = softmax(x @ self.W.T + self.b), softmax(x_prime @ self.W.T + self.b)
        loss = classification_loss(targets, p, p_prime)
        g, g_prime = classification_gradient(targets, p, p_prime)
        if not warm_up:
            rho = np.where(ood, -1.0, 1.0)
            h, h_prime = consistency_gradient(p, p_prime, rho)
            loss = joint_loss(loss, consistency_loss(p, p_prime, rho), self.alpha)
            g, g_prime = joint_loss(g, h, self.alpha), joint_loss(g_prime, h_prime, self.alpha)
        return float(loss), g.T @ x + g_prime.T @ x_prime, (g + g_prime).sum(axis=0)

    def step(self, x, x_prime, labels, t):
        """One mini-batch of epoch t: select, descend, update the teacher."""
        x, x_prime = np.asarray(x, dtype=np.float64), np.asarray(x_prime, dtype=np.float64)
        targets, p_clean, masks = self.select(x, x_prime, labels, t)
        loss, grad_W, grad_b = self.objective(x, x_prime, targets, masks, t)
        self.W, self.b = self.W - self.lr * grad_W, self.b - self.lr * grad_b
        self.W_mt, self.b_mt = ema(self.W_mt, self.W, self.omega), ema(self.b_mt, self.b, self.omega)
        return {"loss": loss, "p_clean": p_clean, "masks": masks}


def _central_differences(f, at, h=1e-5):
    steps = h * np.eye(at.size).reshape(at.size, *at.shape)
    return np.array([f(at + s) - f(at - s) for s in steps]).reshape(at.shape) / (2 * h)


def _self_check():
    """Hold the analytic gradients against central differences: by the logits, then through a whole step."""
    rng = np.random.default_rng(0)
    z, targets, rho = rng.normal(size=(2, 6, 5)), softmax(rng.normal(size=(6, 5))), np.array([1, -1, 1, 1, -1, 1])
    numeric = _central_differences(lambda z: consistency_loss(*softmax(z), rho), z)
    np.testing.assert_allclose(consistency_gradient(*softmax(z), rho), numeric, atol=1e-9)
    numeric = _central_differences(lambda z: classification_loss(targets, *softmax(z)), z)
    np.testing.assert_allclose(classification_gradient(targets, *softmax(z)), numeric, atol=1e-9)

    theta, theta_mt, x = rng.normal(size=(5, 4)), rng.normal(size=(5, 4)), rng.normal(size=(40, 3))
    x_prime, labels = x + rng.normal(size=x.shape) / 2, rng.integers(5, size=40)
    hyper = (0.4, 0.3, 0.9, 10, 0.8, 0.95, 3, 10, 0.1, theta_mt[:, :3], theta_mt[:, 3])
    for t in (2, 3, 7):  # before, at and after t_w
        model = LinearJoSRC(theta[:, :3], theta[:, 3], *hyper)
        targets, _, masks = model.select(x, x_prime, labels, t)
        assert all(mask.any() for mask in masks)
        batch = x, x_prime, targets, masks, t

        def loss(theta, batch=batch):
            return LinearJoSRC(theta[:, :3], theta[:, 3], *hyper).objective(*batch)[0]

        numeric = _central_differences(loss, theta)
        model.step(x, x_prime, labels, t)
        np.testing.assert_allclose((theta - np.c_[model.W, model.b]) / model.lr, numeric, atol=1e-9)


if __name__ == "__main__":
    _self_check()
    print("the analytic gradients agree with central differences")
