"""How good is it? Clean labelled sets are made into noisy crawls with a hidden truth, and verdicts held against it."""
