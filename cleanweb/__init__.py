"""cleanweb: learn from a crawled image set with noisy labels; tag every image clean, relabeled or out of distribution."""

__version__ = "0.1.0"
