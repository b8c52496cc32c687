"""What is kept in columns comes out as it went in, and takes little memory."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cleanweb.packed import Facts, Samples
from cleanweb.records import ImageFacts, Sample, Status

TEXT = st.text("aé/#\udcff\n😀", max_size=6)  # file names need not be text
SHA256, DIGEST = (st.just("") | st.binary(min_size=n, max_size=n).filter(any).map(bytes.hex) for n in (32, 16))
SAMPLES = st.builds(Sample, TEXT, TEXT, TEXT, st.none() | st.integers(0, 2**40), st.none() | TEXT,
                    st.sampled_from(Status), TEXT, TEXT, TEXT)  # fmt: skip
FACTS = st.builds(ImageFacts, st.sampled_from(Status), TEXT, TEXT, st.integers(0, 2**31 - 1), st.integers(0, 9),
                  st.integers(0, 2**40), SHA256, DIGEST, st.integers(0, 2**64 - 1), TEXT)  # fmt: skip


@given(samples=st.lists(SAMPLES, max_size=30))
@settings(max_examples=25, deadline=None)
def test_samples_come_out_as_they_went_in(samples: list[Sample]):
    kept = Samples(samples)
    assert len(kept) == len(samples)
    assert list(kept) == samples
    assert kept == samples == kept
    assert kept[1:] == samples[1:]
    assert [kept[-i - 1] for i in range(len(samples))] == samples[::-1]
    with pytest.raises(IndexError):
        kept[len(samples)]


@given(facts=st.dictionaries(st.integers(0, 3000), FACTS, max_size=30), other=FACTS)
@settings(max_examples=25, deadline=None)
def test_facts_come_out_as_they_went_in(facts: dict[int, ImageFacts], other: ImageFacts):
    kept = Facts()
    for i, fact in facts.items():
        kept[i] = fact
    assert kept == facts
    assert sorted(kept) == sorted(facts)
    for i in list(facts)[:3]:
        kept[i] = other
        assert kept[i] == other
        del kept[i]
        assert i not in kept
        assert kept.get(i) is None
    assert len(kept) == max(0, len(facts) - 3)


def test_an_order_of_facts_has_missing_ones_where_there_are_none():
    kept, fact = Facts(), ImageFacts(Status.OK, width=3)
    kept[4] = fact
    found = kept.of(np.array([4, 0, 4]))
    assert list(found) == [fact, ImageFacts(Status.MISSING), fact]
    assert found[1:] == [ImageFacts(Status.MISSING), fact]


def test_a_sample_and_its_facts_take_less_than_150_bytes():
    n = 20_000
    samples = Samples(Sample(f"{i:07d}.jpg", f"{i:07d}.jpg", f"/crawl/{i:07d}.jpg", None, f"class {i % 9}", Status.OK)
                      for i in range(n))  # fmt: skip
    facts = Facts()
    for i in range(n):
        facts[i] = ImageFacts(Status.OK, "", "JPEG", 32, 32, 900, f"{i:064x}", f"{i:032x}", i)
    held = samples._rows.nbytes + sys.getsizeof(samples._paths) + facts._rows[:n].nbytes
    assert held / n < 150
