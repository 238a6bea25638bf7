"""The chunked loss against transformers' own, and models whose logits it cannot give."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers import masking_utils

from harness.data.batches import collate
from harness.data.tokenize import Example
from harness.loss import label_loss_sum, refuse_scaled_logits
from tests.conftest import attached, examples


@pytest.mark.parametrize("chunk", [None, 7, 1])
def test_loss_and_gradients_equal_the_models_own(model: Any, chunk: int | None) -> None:
    """Against `model(labels=…)` on right-padded rows with a mask: other code for the loss, the logits and the padding.

    Gradients are compared as a whole: chunks are summed in another order.
    """
    model.double()
    batch = examples(5)
    ids, labels = collate(batch, pad=1, device="cpu")
    wanted = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for row, e in enumerate(batch):
        wanted[row, e.prompt : len(e.ids)] = ids[row, e.prompt : len(e.ids)]
        mask[row, : len(e.ids)] = 1
    count = sum(len(e.ids) - e.prompt for e in batch)
    with attached(model, "full") as handle:
        reference = model(input_ids=ids, attention_mask=mask, labels=wanted).loss * count
        reference.backward()
        expected = {n: p.grad.clone() for n, p in handle.trainable().items()}
        model.zero_grad()
        loss = label_loss_sum(model, ids, labels, chunk=chunk)
        loss.backward()
        assert loss.dtype == torch.float64
        torch.testing.assert_close(loss.float(), reference, rtol=1e-6, atol=0)  # transformers takes its loss in fp32
        for n, p in handle.trainable().items():
            torch.testing.assert_close(p.grad, expected[n], rtol=1e-5, atol=1e-6 * float(expected[n].abs().max()))


def test_accelerators_get_widths_of_64_with_the_same_loss(model: Any, monkeypatch: Any) -> None:
    """The same tokens are labels, and the loss is that of the narrow batch."""
    monkeypatch.setattr("harness.data.batches._to", lambda tensor, device: tensor)
    model.double()
    batch = examples(7)
    narrow, labels = collate(batch, 1, "cpu")
    wide, moved = collate(batch, 1, "cuda:0")
    assert narrow.shape[1] == max(len(e.ids) for e in batch)
    assert wide.shape == (7, 64)
    full, _ = collate([Example(tuple(range(128)), 3)], 1, "cuda")
    assert full.shape == (1, 128)
    assert torch.equal(wide.flatten()[moved], narrow.flatten()[labels])
    assert torch.equal(wide[:, : narrow.shape[1]], narrow)
    with torch.no_grad():
        torch.testing.assert_close(
            label_loss_sum(model, wide, moved), label_loss_sum(model, narrow, labels), rtol=1e-12, atol=0
        )


def test_loss_is_that_of_transformers_looking_for_packed_rows(model: Any, monkeypatch: Any) -> None:
    """Bit for bit; and it is there again for other callers, after an error too."""
    looks = masking_utils.find_packed_sequence_indices
    ids, labels = collate(examples(5), pad=1, device="cpu")
    loss = label_loss_sum(model, ids, labels)
    with pytest.raises(IndexError):
        label_loss_sum(model, ids + 10**6, labels)
    assert masking_utils.find_packed_sequence_indices is looks
    monkeypatch.setattr("harness.loss._unpacked_rows", nullcontext)
    assert torch.equal(label_loss_sum(model, ids, labels), loss)


def test_padding_is_masked_by_position(model: Any) -> None:
    """With pad id == EOS id every EOS that belongs to a text is still a label, and no pad is."""
    batch = examples(6)
    ids, labels = collate(batch, pad=0, device="cpu")
    width = ids.shape[1]
    expected = [(row, t) for row, e in enumerate(batch) for t in range(e.prompt, len(e.ids))]
    assert [(p // width, p % width) for p in labels.tolist()] == expected
    other, same = collate(batch, pad=1, device="cpu")
    assert torch.equal(labels, same)
    with torch.no_grad():
        assert label_loss_sum(model, ids, labels) == label_loss_sum(model, other, labels)


SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.mark.parametrize(
    ("kind", "settings", "refused"),
    [
        ("Gemma2", {"final_logit_softcapping": 30.0}, True),  # far above a random model's logits
        ("Gemma2", {"final_logit_softcapping": None}, False),
        ("Granite", {"logits_scaling": 8.0}, True),
        ("Granite", {"logits_scaling": 1.0}, False),
        ("Cohere", {"logit_scale": 0.0625}, True),
        ("MiniCPM3", {"dim_model_base": 4, "num_key_value_heads": 2}, True),
        ("Qwen3", {}, False),
        ("Llama", {}, False),
        ("Qwen2", {}, False),
        ("Mistral", {}, False),
    ],
)
def test_models_with_capped_or_scaled_logits_are_refused(kind: str, settings: dict[str, Any], refused: bool) -> None:
    """The loss multiplies the decoder's states by the bare output embedding; for such models that is another function.

    Asserts first, on the refused, that `model(labels=…)` is indeed another function.
    """
    import transformers

    torch.manual_seed(0)
    if not hasattr(transformers, f"{kind}Config"):
        pytest.skip(f"this transformers has no {kind}")
    config = getattr(transformers, f"{kind}Config")(**(SIZES | settings))
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(200)  # logits large enough for a cap to show
        ids = torch.randint(3, 60, (1, 12))
        theirs = model(input_ids=ids, labels=ids).loss
        ours = label_loss_sum(model, ids, torch.arange(1, 12)) / 11
    assert (abs(float(ours / theirs) - 1) > 1e-3) is refused
    if refused:
        with pytest.raises(SystemExit, match="scales or caps its logits"):
            refuse_scaled_logits(model, kind)
    else:
        refuse_scaled_logits(model, kind)
    assert not model.get_output_embeddings()._forward_hooks
