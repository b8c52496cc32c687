"""torchrun's world: processes on one machine or several, all of which see the run folder. Rank 0 tells the story; the
others do their share of what it hands out.

Networks are handed out whole, so that any number of ranks gives the same verdicts. A rank that dies takes the others
with it; torchrun starts them again (--max-restarts), and the run goes on from its checkpoints.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from cleanweb import malloc
from cleanweb.errors import CleanwebError

_PATIENCE = timedelta(days=30)  # rank 0 may read a crawl and look for copies for long

_LOOK_S = 0.05

Work = Callable[[Sequence[int]], None]


def size() -> int:
    """How many processes torchrun has started; 1 where it has not."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank() -> int:
    """Which of them this is."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def device(asked: torch.device) -> torch.device:
    """This rank's own GPU, where a GPU is asked for."""
    several = size() > 1 and asked.type == "cuda"
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()) if several else asked


@contextmanager
def world() -> Iterator[bool]:
    """Whether this process tells the story. Where it does not, it has done by then all that was handed out."""
    if size() == 1:
        yield True
        return
    dist.init_process_group("gloo", store=_store(), rank=rank(), world_size=size(), timeout=_PATIENCE)
    if rank() > 0:
        malloc.keep_freed()  # `fit` asks for it only where the story is told
        while (job := _said(None)) is not None:
            work, items = job
            _done(work, items)
        yield False
    else:
        yield True
        _said(None)  # a story that ends badly ends this process, and so torchrun the others
    dist.destroy_process_group()


def share(here: Work, elsewhere: Work, items: Sequence[int]) -> None:
    """Rank 0: every rank works on its share of the items, `here` this one and `elsewhere`, which is sent to them, the
    others. Raises the CleanwebError that one of them has raised."""
    if size() > 1:
        _said((elsewhere, items))
    _done(here, items)


def _store() -> Store:
    """Where the ranks leave word of where they are, of this start alone. What torchrun has for it still holds the word
    of ranks that were killed (torch 2.15): who believes that waits for the dead. So every other rank calls by a name of
    its own, until rank 0 has told it what this start is called."""
    store, *_ = next(rendezvous("env://", timeout=_PATIENCE))
    if rank() > 0:
        me = uuid4().hex
        store.set(f"called/{rank()}", me)
        start = store.get(f"told/{me}").decode()
        store.set(f"{start}/heard/{rank()}", "")
        return PrefixStore(start, store)
    start, others = uuid4().hex, set(range(1, size()))
    while others := {k for k in others if not store.check([f"{start}/heard/{k}"])}:
        for k in others:
            if store.check([f"called/{k}"]):
                store.set(f"told/{store.get(f'called/{k}').decode()}", start)
        time.sleep(_LOOK_S)
    return PrefixStore(start, store)


def _said(job: tuple[Work, Sequence[int]] | None) -> tuple[Work, Sequence[int]] | None:
    """What rank 0 says, to all."""
    said: list[Any] = [job]
    dist.broadcast_object_list(said, src=0)
    said_by_rank_0: tuple[Work, Sequence[int]] | None = said[0]
    return said_by_rank_0


def _done(work: Work, items: Sequence[int]) -> None:
    """This rank's share; at rank 0, everyone's."""
    if size() == 1:
        work(items)
        return
    error: CleanwebError | None = None
    try:
        work(items[rank() :: size()])
    except CleanwebError as raised:
        error = raised
    errors: list[CleanwebError | None] = [None] * size()
    dist.gather_object(error, errors if rank() == 0 else None)
    for error in errors:
        if error is not None:
            raise error
