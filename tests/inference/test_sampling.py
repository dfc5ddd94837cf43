"""Drawing ids: what the filters keep, what the draws follow, and whose noise it is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emu3.errors import InputError
from emu3.inference.sampling import GumbelNoise, SamplingParams, apply_cfg

CPU = torch.device("cpu")
KEEP_ALL = SamplingParams(top_k=0)


def some_logits(rows: int = 3, size: int = 20) -> Tensor:
    return torch.randn(rows, size) * 2


def test_greedy_takes_the_most_likely() -> None:
    logits = some_logits()
    sampling = SamplingParams(top_k=1, temperature=7.0)
    assert sampling.greedy
    assert not SamplingParams().greedy
    assert torch.equal(sampling.sample(logits, GumbelNoise([0, 1, 2], CPU)), logits.argmax(-1))


def test_top_k_of_one_is_greedy() -> None:
    logits = some_logits()
    kept = SamplingParams(top_k=1).filter_logits(logits).isfinite()
    assert torch.equal(kept.float().argmax(-1), logits.argmax(-1))
    assert kept.sum() == len(logits)


@pytest.mark.parametrize("k", [1, 2, 7, 19, 20, 2048])
def test_top_k_keeps_the_k_most_likely(k: int) -> None:
    logits = some_logits()
    kept = SamplingParams(top_k=k).filter_logits(logits)
    assert kept.isfinite().sum(-1).tolist() == [min(k, 20)] * 3
    best = logits.topk(min(k, 20))
    assert torch.equal(kept.gather(-1, best.indices), best.values)


def test_zero_keeps_all() -> None:
    logits = some_logits()
    assert torch.equal(KEEP_ALL.filter_logits(logits), logits)


@settings(max_examples=50)
@given(
    st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12),
    st.floats(0.01, 0.99),
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(values: list[float], p: float) -> None:
    logits = torch.tensor([values])
    kept = SamplingParams(top_k=0, top_p=p).filter_logits(logits)[0].isfinite()
    probabilities = logits[0].softmax(-1)
    inside = probabilities[kept]
    assert len(inside) >= 1
    assert inside.sum() >= p - 1e-5  # it reaches p,
    assert inside.sum() - inside.min() < p + 1e-5  # not without its least likely,
    if not kept.all():
        assert inside.min() >= probabilities[~kept].max()  # and nothing outside is likelier


def test_the_order_is_temperature_then_k_then_p() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log()
    # of the best two alone, the first has 5/8 of the probability: enough for 0.6
    assert SamplingParams(top_k=2, top_p=0.6).filter_logits(logits).isfinite().sum() == 1
    assert SamplingParams(top_k=0, top_p=0.6).filter_logits(logits).isfinite().sum() == 2
    # cold enough, the first has it all
    cold = SamplingParams(top_k=0, top_p=0.6, temperature=0.1).filter_logits(logits)
    assert cold.isfinite().sum() == 1
    assert cold[0, 0] == pytest.approx(logits[0, 0].item() * 10)


def chi_square(draws: Tensor, probabilities: Tensor) -> float:
    counts = torch.bincount(draws, minlength=len(probabilities)).double()
    expected = probabilities.double() * len(draws)
    return ((counts - expected).square() / expected).sum().item()


WORST = 20.5  # of 5 degrees of freedom, exceeded once in 1000


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_samples_follow_the_softmax(temperature: float) -> None:
    """Samples of one seed one after another, and the first sample of each of many seeds."""
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0])
    sampling = SamplingParams(top_k=0, temperature=temperature)
    wanted = (logits / temperature).softmax(-1)
    noise = GumbelNoise([3], CPU)
    later = torch.cat([sampling.sample(logits[None], noise) for _ in range(3000)])
    assert chi_square(later, wanted) < WORST
    first = sampling.sample(logits.expand(2000, -1), GumbelNoise(list(range(2000)), CPU))
    assert chi_square(first, wanted) < WORST
    assert chi_square(later, logits.softmax(-1) if temperature != 1 else wanted.flip(0)) > WORST


def test_filtered_entries_are_never_sampled() -> None:
    logits = some_logits(1, 6).expand(500, -1)
    sampled = SamplingParams(top_k=2).sample(logits, GumbelNoise(list(range(500)), CPU))
    assert set(sampled.tolist()) == set(logits[0].topk(2).indices.tolist())


def test_batched_rows_equal_single_rows() -> None:
    """Whatever other rows are in the batch, active or not."""
    logits = torch.randn(6, 3, 50)
    active = [[True, True, False], [False] * 3, [True, False, True]] * 2
    together = GumbelNoise([5, 6, 7], CPU)
    sampled = [
        KEEP_ALL.sample(step, together, mask).tolist()
        for step, mask in zip(logits, active, strict=True)
    ]
    for row, seed in enumerate([5, 6, 7]):
        alone = GumbelNoise([seed], CPU)
        for step, mask in enumerate(active):
            if mask[row]:
                expected = KEEP_ALL.sample(logits[step, row : row + 1], alone).item()
                assert sampled[step][row] == expected


def test_seeds_matter() -> None:
    logits = torch.zeros(2, 1000)
    first, second = KEEP_ALL.sample(logits, GumbelNoise([1, 2], CPU)).tolist()
    assert first != second
    noise = GumbelNoise([1, 2], CPU)
    again = [KEEP_ALL.sample(logits, noise).tolist() for _ in range(2)]
    assert again[0] == [first, second]
    assert again[1] != again[0]


def test_guidance_of_one_is_conditional() -> None:
    conditional, unconditional = some_logits(), some_logits()
    guided = apply_cfg(conditional, unconditional, 1.0)
    torch.testing.assert_close(guided, conditional.log_softmax(-1))
    torch.testing.assert_close(
        apply_cfg(conditional, unconditional, 0.0), unconditional.log_softmax(-1)
    )


def test_guidance_is_the_published_formula() -> None:
    """As in transformers' UnbatchedClassifierFreeGuidanceLogitsProcessor, line by line."""
    scores, unconditional = some_logits(), some_logits()
    log_scores = torch.nn.functional.log_softmax(scores, dim=-1)
    log_unconditional = torch.nn.functional.log_softmax(unconditional, dim=-1)
    expected = 3.0 * (log_scores - log_unconditional) + log_unconditional
    torch.testing.assert_close(apply_cfg(scores, unconditional, 3.0), expected)


@pytest.mark.parametrize(
    "sampling",
    [SamplingParams(0), SamplingParams(4), SamplingParams(0, 0.7), SamplingParams(6, 0.8)],
)
def test_visual_logits_equal_masked_vocabulary(sampling: SamplingParams) -> None:
    """The normalisers of guidance cancel: computing logits of codes only changes no probability."""
    conditional, unconditional = some_logits(2, 60), some_logits(2, 60)
    codes = slice(40, 60)
    masked = torch.full((2, 60), -torch.inf)
    masked[:, codes] = apply_cfg(conditional, unconditional, 3.0)[:, codes]
    ours = apply_cfg(conditional[:, codes], unconditional[:, codes], 3.0)
    expected = sampling.filter_logits(masked).softmax(-1)[:, codes]
    torch.testing.assert_close(sampling.filter_logits(ours).softmax(-1), expected)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", float("inf")),
        ("temperature", float("nan")),
    ],
)
def test_invalid_parameters_are_refused(setting: str, value: float) -> None:
    with pytest.raises(InputError, match=setting):
        SamplingParams(**{setting: value})  # type: ignore[arg-type]
