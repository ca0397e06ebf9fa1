"""PRIM on one slice for many prompts: the two-way transformer without its 4096 x 256 maps.

``Prim.forward`` is the plain form; this one gives the same numbers, up to rounding, for a tenth of the arithmetic. A
prompt's largest array here is (56, 4096) instead of (4096, 256).

SAM's transformer has two layers and a final attention. A layer does four things: tokens attend to themselves; tokens
read the image; an MLP; and the image reads the tokens, which *writes* to every pixel. Only the last changes the image,
and it does so in a way that is cheap to describe. Attention to n tokens with 8 heads gives a pixel p

    sum over heads h and tokens t of  A[h, t, p] * M[h, t],     M[h, t] = value of token t in head h, through out_proj,

a mixture of the same 8 n = 56 vectors M for all pixels, with weights A of its own. With X the image before the prompt,
the pixels after layer 1 are

    Y1 = g1 * (X + M1' A1 - mean) / deviation + b1                          (a layer norm: weight g1, bias b1)

and after layer 2, likewise, Y2 = norm(Y1 + M2' A2). Everything that is asked of Y1 and Y2 later is a product with some
vector (keys, values, queries are linear), or their deviation, which is a norm, which is products again. And a product
with a sum is a sum of products:

    q . Y1 = ( (g1 * q) . X  +  (g1 * q) . M1' A1 ) / deviation + q . b1,

where the first part does not depend on the prompt and is prepared once per slice (``PrimSlice.__init__``), and the
second is 56 numbers times A1. Likewise the squared deviation |X + M'A|^2 = |X|^2 + 2 (M X)' A + A' (M M') A.

Names: ``centred`` takes the mean over the channels away, so that a norm is only a scale (``rate`` = 1 / deviation);
a trailing 1 or 2 counts the transformer's layers. Shapes: P prompts, n tokens each (n = 7 for a point), N pixels,
8 heads of 16 channels, R = 8 n rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .prim import Prim

HEADS = 8
HEAD_DIM = 16  # of the attentions between tokens and image
SCALE = HEAD_DIM**-0.5


def centred(x: Tensor) -> Tensor:
    """x (..., 256) without its mean over the channels."""
    return x - x.mean(-1, keepdim=True)


def by_head(x: Tensor, layer: Any, bias: bool = False) -> Tensor:
    """A projection of pixels x (N, 256), laid out for products with tokens: (8, 16, N)."""
    y = torch.nn.functional.linear(x, layer.weight, layer.bias if bias else None)
    return y.t().reshape(HEADS, HEAD_DIM, -1).contiguous()


def by_head_transposed(x: Tensor, layer: Any) -> Tensor:
    """Products of pixels x (N, 256) with the columns of an output projection (256, 128): (8, 16, N)."""
    return (x @ layer.weight).t().reshape(HEADS, HEAD_DIM, -1).contiguous()


def heads_of(x: Tensor) -> Tensor:
    """Tokens (P, n, 128) -> (P, 8, n, 16)."""
    return x.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)


def rows(tokens: Tensor, pixels: Tensor) -> Tensor:
    """Every token with every pixel, per head: (P, 8, n, 16) and (8, 16, N) -> (P, R, N)."""
    return per_head(tokens, pixels).flatten(1, 2)


def per_head(left: Tensor, shared: Tensor) -> Tensor:
    """(P, 8, n, a) and (8, a, b) -> (P, 8, n, b).

    A plain matmul copies the shared factor once per prompt, which on a CPU takes longer than the product.
    """
    if left.device.type != "cpu":
        return torch.matmul(left, shared)
    out = left.new_empty(*left.shape[:3], shared.shape[2])
    for one, into in zip(left, out, strict=True):
        torch.bmm(one, shared, out=into)
    return out


def through(tokens: Tensor, weight: Tensor) -> Tensor:
    """Tokens back to 256 channels, per head: (P, 8, n, 16) and (8, 16, 256) -> (P, R, 256)."""
    return torch.matmul(tokens, weight).flatten(1, 2)


def reciprocal_deviation(energy: Tensor, norm: Any) -> Tensor:
    """From sums of squares over the channels; rounding may leave them a little below zero."""
    return (energy.clamp_min(0) / norm.weight.shape[0] + norm.eps).rsqrt()


@dataclass
class Seen:
    """What P prompts make of the image, in the mixture form."""

    tokens: Tensor  # (P, n, 256) after both layers
    weights1: Tensor  # (P, R, N)
    vectors1: Tensor  # (P, R, 256), times the first norm's weight, centred
    rate1: Tensor  # (P, 1, N), one over the first norm's deviation
    weights2: Tensor  # (P, R, N)
    vectors2: Tensor  # (P, R, 256), centred
    rate2: Tensor  # (P, 1, N)


class PrimSlice:
    """PRIM's transformer prepared for one slice.

    Arguments:
      prim: its parameters must not change while this lives.
      image: (1, 256, 64, 64), neck plus SAM's no-mask embedding.
      image_pe: (1, 256, 64, 64).
    """

    def __init__(self, prim: Prim, image: Tensor, image_pe: Tensor) -> None:
        self.prim = prim
        transformer = prim.transformer
        self.one, self.two = transformer.layers
        self.final = transformer.final_attn_token_to_image
        x, pe = image.flatten(2)[0].t(), image_pe.flatten(2)[0].t()  # (N, 256)
        # Layer 1 reads the image as it comes, and writes to it.
        read, write = self.one.cross_attn_token_to_image, self.one.cross_attn_image_to_token
        self.key1 = by_head(x + pe, read.k_proj)
        self.value1 = by_head(x, read.v_proj).transpose(1, 2)
        self.query1 = by_head(x + pe, write.q_proj, bias=True)
        # From here on X is the image with layer 1's output bias, centred: a norm does not see the mean. ``self.x`` is
        # g1 * X, centred again for the second norm.
        x = centred(x + write.out_proj.bias)
        self.x = centred(x * self.one.norm4.weight)
        # X through out_proj: products with the vectors M1 become products with the values that make them
        self.x_on_out1 = by_head_transposed(x, write.out_proj)
        self.gx_on_out1 = by_head_transposed(centred(self.x * self.one.norm4.weight), write.out_proj)
        self.norm_x = x.square().sum(-1)
        self.norm_gx = self.x.square().sum(-1)
        self._prepare_second(x * self.one.norm4.weight, pe)
        self._prepare_final(pe)

    def _prepare_second(self, gx: Tensor, pe: Tensor) -> None:
        """Layer 2's keys, values and queries of gX; those of the positional encoding and of b1 apart, for they are not
        scaled by the pixel's rate."""
        read, write = self.two.cross_attn_token_to_image, self.two.cross_attn_image_to_token
        b = self.one.norm4.bias
        self.key2, self.pe_key2 = by_head(gx, read.k_proj), by_head(pe, read.k_proj)
        self.value2 = by_head(gx, read.v_proj).transpose(1, 2)
        self.query2, self.pe_query2 = by_head(gx, write.q_proj), by_head(pe + b, write.q_proj, bias=True)
        self.x_on_out2 = by_head_transposed(self.x, write.out_proj)
        self.b = centred(b + write.out_proj.bias)
        self.x_on_b = self.x @ self.b

    def _prepare_final(self, pe: Tensor) -> None:
        """The final attention's keys and values of g2 * gX."""
        g2x = self.x * self.two.norm4.weight
        self.key3, self.pe_key3 = by_head(g2x, self.final.k_proj), by_head(pe, self.final.k_proj)
        self.value3 = by_head(g2x, self.final.v_proj).transpose(1, 2)

    def read(self, prompt_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """IoU token (P, 256) and mask embedding (P, 256, 64, 64) for prompt_tokens (P, n, 256)."""
        seen = self.see(prompt_tokens)
        return self.iou_token(seen, prompt_tokens), self.embedding(seen)

    def see(self, prompt_tokens: Tensor) -> Seen:
        """Both layers of the transformer for prompt_tokens (P, n, 256) (``Prim.tokens``)."""
        # Layer 1. The image is still X, the same for all prompts: its keys and values were prepared.
        tokens = self.one.norm1(self.one.self_attn(prompt_tokens, prompt_tokens, prompt_tokens))
        read, write = self.one.cross_attn_token_to_image, self.one.cross_attn_image_to_token
        asked = heads_of(read.q_proj(tokens + prompt_tokens)) * SCALE
        attention = rows(asked, self.key1).softmax(-1).unflatten(1, (HEADS, -1))
        tokens = self._after_reading(self.one, tokens, per_head(attention, self.value1))

        # The image reads the tokens: weights A1 (a softmax over the tokens of a head), vectors M1.
        keys, values = self._token_keys(write, tokens, prompt_tokens)
        weights1 = self._over_tokens(rows(keys, self.query1))
        out1 = write.out_proj.weight.t().reshape(HEADS, HEAD_DIM, -1)
        vectors = centred(through(values, out1))

        # The norm after it. |X + M1'A1|^2 = |X|^2 + A1 . (M1 M1' A1 + 2 M1 X), pixel by pixel; M1 X is a product with
        # the values, because M1 = values through out_proj and X through out_proj was prepared.
        # vectors1 = centred(g1 * M1) and energy1, the same sum for g1 * (X + M1'A1), are for layer 2's norm.
        vectors1 = centred(vectors * self.one.norm4.weight)
        grams = torch.cat([vectors @ vectors.mT, vectors1 @ vectors1.mT], 1) @ weights1
        gram, gram1 = grams.chunk(2, 1)
        energy = self._energy(gram.add_(rows(values, self.x_on_out1), alpha=2), weights1) + self.norm_x
        rate1 = reciprocal_deviation(energy, self.one.norm4)
        energy1 = self._energy(gram1.add_(rows(values, self.gx_on_out1), alpha=2), weights1) + self.norm_gx

        # Layer 2, on the image Y1 = rate1 * g1 * (X + M1'A1) + b1. ``raw`` = g1 * M1, which is asked uncentred.
        raw = vectors * self.one.norm4.weight
        tokens = self._second_reading(tokens, prompt_tokens, weights1, raw, rate1)
        return self._second_writing(tokens, prompt_tokens, weights1, (raw, vectors1), rate1, energy1)

    def _second_reading(
        self, tokens: Tensor, prompt_tokens: Tensor, weights1: Tensor, raw: Tensor, rate1: Tensor
    ) -> Tensor:
        """Layer 2's tokens after their self-attention and their look at the image, (P, n, 256)."""
        layer, read = self.two, self.two.cross_attn_token_to_image
        own = tokens + prompt_tokens
        tokens = layer.norm1(tokens + layer.self_attn(own, own, tokens))
        # which pixels each token attends to
        asked = heads_of(read.q_proj(tokens + prompt_tokens)) * SCALE
        attention = self._asked_of_first(asked, read.k_proj, self.key2, self.pe_key2, weights1, raw, rate1)
        # what it reads there, the values of Y1: sum over pixels of attention * (rate1 * (gX + gM1'A1) + b1). The rate
        # belongs to the pixel and is taken into the attention; then the image's part, the mixture's, the constant b1
        # (attention sums to one).
        attention = attention.softmax(-1).mul_(rate1)
        from_image = per_head(attention.unflatten(1, (HEADS, -1)), self.value2)
        mixture = (attention @ weights1.mT).unflatten(1, (HEADS, -1))  # (P, 8, n, R): how much of each vector
        value = read.v_proj
        weight = value.weight.view(HEADS, HEAD_DIM, -1)
        from_vectors = torch.matmul(mixture, torch.einsum("prc,hdc->phrd", raw, weight))
        constant = value(self.one.norm4.bias).view(HEADS, 1, HEAD_DIM)
        return self._after_reading(layer, tokens, from_image + from_vectors + constant, value_has_bias=True)

    def _second_writing(
        self,
        tokens: Tensor,
        prompt_tokens: Tensor,
        weights1: Tensor,
        vectors: tuple[Tensor, Tensor],
        rate1: Tensor,
        energy1: Tensor,
    ) -> Seen:
        """Layer 2's change of the image, M2'A2, and the norm after it."""
        write = self.two.cross_attn_image_to_token
        raw, vectors1 = vectors
        keys, values = self._token_keys(write, tokens, prompt_tokens)
        scores = self._asked_of_first(keys, write.q_proj, self.query2, self.pe_query2, weights1, raw, rate1)
        weights2 = self._over_tokens(scores)
        out2 = write.out_proj.weight.t().reshape(HEADS, HEAD_DIM, -1)
        vectors2 = centred(through(values, out2))

        # Before the norm the image is, centred,  rate1 * (gX + gM1'A1) + b + M2'A2,  with b = b1 + out_proj's bias.
        # Its squared length is that of the three parts and twice their products with one another:
        #   cross  = A2 . (2 M2 . (rate1 (gX + gM1'A1) + b) + M2 M2' A2)     what M2'A2 brings in
        #   energy = rate1^2 energy1 + 2 rate1 b . (gX + gM1'A1) + |b|^2      what was there before
        cross = rows(values, self.x_on_out2).baddbmm_(vectors2 @ vectors1.mT, weights1).mul_(rate1)
        cross.add_((vectors2 @ self.b)[..., None]).mul_(2).baddbmm_(vectors2 @ vectors2.mT, weights2)
        on_b = self.x_on_b + (vectors1 @ self.b)[:, None] @ weights1
        energy = rate1 * (rate1 * energy1 + 2 * on_b) + self.b.square().sum()
        energy = energy + self._energy(cross, weights2)
        rate2 = reciprocal_deviation(energy, self.two.norm4)
        return Seen(tokens, weights1, vectors1, rate1, weights2, vectors2, rate2)

    def iou_token(self, seen: Seen, prompt_tokens: Tensor) -> Tensor:
        """The IoU token after the final attention, (P, 256). The only token whose answer is read."""
        # The image is now Y2 = g2 * rate2 * (rate1 (gX + gM1'A1) + b + M2'A2) + b2. ``folded`` = g2 * (key projection
        # of what is asked): its products with the four parts, and with the positional encoding, are the scores. Terms
        # that are the same for all pixels are left out: a softmax does not see them.
        token, g = seen.tokens[:, :1], self.two.norm4.weight
        asked = heads_of(self.final.q_proj(token + prompt_tokens[:, :1])) * SCALE  # (P, 8, 1, 16)
        folded = through(asked, self.final.k_proj.weight.view(HEADS, HEAD_DIM, -1)) * g  # (P, 8, 256)
        scores = rows(asked, self.key3) + (folded @ seen.vectors1.mT) @ seen.weights1
        scores = scores * seen.rate1 + (folded @ self.b)[..., None]
        scores = (scores + (folded @ seen.vectors2.mT) @ seen.weights2) * seen.rate2
        attention = (scores + rows(asked, self.pe_key3)).softmax(-1) * seen.rate2  # (P, 8, N)

        # What is read: first the mean pixel under the attention, in 256 channels, then one value projection of it.
        # The image's own part comes through the prepared values instead: it has 4096 pixels.
        on_image = attention * seen.rate1
        value = self.final.v_proj
        mixed = on_image @ seen.weights1.mT @ seen.vectors1 + attention @ seen.weights2.mT @ seen.vectors2
        mixed = (mixed + attention.sum(-1, keepdim=True) * self.b) * g + self.two.norm4.bias  # (P, 8, 256)
        read = per_head(on_image[:, :, None], self.value3)[:, :, 0]
        read = read + torch.einsum("phc,hdc->phd", mixed, value.weight.view(HEADS, HEAD_DIM, -1))
        read = read.flatten(1) + value.bias
        return self.prim.transformer.norm_final_attn(token[:, 0] + self.final.out_proj(read))

    def embedding(self, seen: Seen) -> Tensor:
        """The image after the transformer, PDMM's mask embedding, (P, 256, 64, 64) in channels_last layout.

        The one place where a prompt's whole map is made: Y2 written out, both mixtures in one product.
        """
        both = torch.cat([seen.weights1 * seen.rate1, seen.weights2], 1)
        pixels = both.mT @ torch.cat([seen.vectors1, seen.vectors2], 1)  # (P, N, 256)
        pixels.addcmul_(seen.rate1.mT, self.x[None]).add_(self.b)
        pixels.mul_(seen.rate2.mT).mul_(self.two.norm4.weight).add_(self.two.norm4.bias)
        side = round(pixels.shape[1] ** 0.5)
        return pixels.unflatten(1, (side, side)).permute(0, 3, 1, 2)

    def _asked_of_first(
        self, asked: Tensor, layer: Any, image: Tensor, pe: Tensor, weights1: Tensor, raw: Tensor, rate1: Tensor
    ) -> Tensor:
        """Products of asked (P, 8, n, 16) with a projection of the pixels after layer 1, (P, R, N).

        Up to a constant per row, unless pe carries it: a softmax over the pixels does not see it.
        """
        folded = through(asked, layer.weight.view(HEADS, HEAD_DIM, -1))
        return rows(asked, image).baddbmm_(folded @ raw.mT, weights1).mul_(rate1).add_(rows(asked, pe))

    @staticmethod
    def _token_keys(write: Any, tokens: Tensor, prompt_tokens: Tensor) -> tuple[Tensor, Tensor]:
        keys = heads_of(write.k_proj(tokens + prompt_tokens)) * SCALE
        return keys, heads_of(write.v_proj(tokens))

    @staticmethod
    def _over_tokens(scores: Tensor) -> Tensor:
        """Softmax over each head's tokens, (P, R, N)."""
        return scores.unflatten(1, (HEADS, -1)).softmax(2).flatten(1, 2)

    @staticmethod
    def _energy(products: Tensor, weights: Tensor) -> Tensor:
        """(P, R, N) with (P, R, N), summed over the rows: (P, 1, N)."""
        return products.mul_(weights).sum(1, keepdim=True)

    @staticmethod
    def _after_reading(layer: Any, tokens: Tensor, read: Tensor, value_has_bias: bool = False) -> Tensor:
        """Adds what the tokens read of the image (P, 8, n, 16), then the layer's norms and MLP."""
        attention = layer.cross_attn_token_to_image
        read = read.transpose(1, 2).flatten(2)
        if not value_has_bias:
            read = read + attention.v_proj.bias
        tokens = layer.norm2(tokens + attention.out_proj(read))
        return layer.norm3(tokens + layer.mlp(tokens))
