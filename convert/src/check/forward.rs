//! The reference: a family's network over the checkpoint's own tensors, written from the switches of
//! its [`Block`] alone. Plain on purpose; of the runtime it uses the product of F32 rows alone.

use super::{
    layers::{self, Rows, Scores},
    weights::Weights,
};
use pith::{Result, model::Hparams};
use pith_models::{Block, Ffn, Join, Pairing, Position, QkNorm, WindowPattern};

/// A network bound to its tensors.
pub(super) struct Forward<'a> {
    pub weights: &'a Weights<'a>,
    pub block: &'static Block,
    pub hp: &'a Hparams,
}

impl Forward<'_> {
    /// The logits after each token, `[n_vocab, n]`, or a classifier's `[n_labels, n]`. `before` hears of each layer, and of the head.
    pub fn logits(&self, ids: &[u32], before: &mut dyn FnMut() -> Result<()>) -> Result<Vec<f32>> {
        let mut x = self.embed(ids)?;
        for il in 0..self.hp.n_layer {
            before()?;
            x = self.layer(il, x)?;
        }
        before()?;
        self.head(x)
    }

    fn embed(&self, ids: &[u32]) -> Result<Rows> {
        let ids: Vec<usize> = ids.iter().map(|&id| id as usize).collect();
        let mut x = self.weights.rows("token_embd.weight", &ids)?;
        x = x.map(|value| value * self.hp.embed_scale);
        if self.weights.has("project_in.weight") {
            x = self.linear("project_in", &x)?;
        }
        // MPT has the table where it has no ALiBi.
        let learned = match self.block.position {
            Position::Learned => true,
            Position::Alibi => self.hp.alibi_max == 0.0,
            Position::Rope(_) | Position::AlibiThenScale | Position::None => false,
        };
        if learned {
            let positions: Vec<usize> = (0..ids.len()).collect();
            x.add(&self.weights.rows("position_embd.weight", &positions)?);
        }
        match self.weights.has("token_embd_norm.weight") {
            true => self.norm("token_embd_norm", &x),
            false => Ok(x),
        }
    }

    /// One block: where norms and joins are.
    fn layer(&self, il: usize, mut x: Rows) -> Result<Rows> {
        let at = |name: &str| format!("blk.{il}.{name}");
        match self.hp.join {
            Join::PostByKey if self.hp.post_norm => {
                x.add(&self.attention(il, &x)?);
                x = self.norm(&at("attn_norm"), &x)?;
                x.add(&self.feed_forward(il, &x)?);
                x = self.norm(&at("ffn_norm"), &x)?;
            }
            Join::Sequential | Join::PostByKey => {
                x.add(&self.attention(il, &self.norm(&at("attn_norm"), &x)?)?);
                x.add(&self.feed_forward(il, &self.norm(&at("ffn_norm"), &x)?)?);
            }
            Join::Sandwich => {
                let y = self.attention(il, &self.norm(&at("attn_norm"), &x)?)?;
                x.add(&self.norm(&at("post_attention_norm"), &y)?);
                let y = self.feed_forward(il, &self.norm(&at("ffn_norm"), &x)?)?;
                x.add(&self.norm(&at("post_ffw_norm"), &y)?);
            }
            Join::After => {
                let y = self.attention(il, &x)?;
                x.add(&self.norm(&at("post_attention_norm"), &y)?);
                let y = self.feed_forward(il, &x)?;
                x.add(&self.norm(&at("post_ffw_norm"), &y)?);
            }
            // `ByKey` and `ByNorm` are resolved in the numbers: only parallel ones come here.
            Join::Parallel | Join::ByKey | Join::ByNorm => {
                let has = |name: &str| self.weights.has(&at(&format!("{name}.weight")));
                let (first, second) = match (has("attn_norm_2"), has("ffn_norm")) {
                    (true, _) => ("attn_norm_2", "attn_norm"),
                    (false, true) => ("attn_norm", "ffn_norm"),
                    (false, false) => ("attn_norm", "attn_norm"),
                };
                let y = self.attention(il, &self.norm(&at(first), &x)?)?;
                let z = self.feed_forward(il, &self.norm(&at(second), &x)?)?;
                x.add(&y);
                x.add(&z);
            }
        }
        Ok(x)
    }

    fn attention(&self, il: usize, input: &Rows) -> Result<Rows> {
        let (hp, at) = (self.hp, |name: &str| format!("blk.{il}.{name}"));
        let (n_q, n_kv) = (hp.n_head * hp.head_dim, hp.n_head_kv * hp.head_dim);
        let [mut q, mut k, mut v] = if self.weights.has(&at("attn_qkv.weight")) {
            let qkv = self.linear(&at("attn_qkv"), input)?;
            [qkv.narrow(0, n_q), qkv.narrow(n_q, n_kv), qkv.narrow(n_q + n_kv, n_kv)]
        } else {
            [
                self.linear(&at("attn_q"), input)?,
                self.linear(&at("attn_k"), input)?,
                self.linear(&at("attn_v"), input)?,
            ]
        };
        if let Some(limit) = hp.clamp_kqv {
            [q, k, v] = [q, k, v].map(|rows| rows.map(|value| value.clamp(-limit, limit)));
        }
        for (name, rows) in [("attn_q_norm", &mut q), ("attn_k_norm", &mut k)] {
            self.norm_heads(&at(name), rows)?;
        }
        let window = hp.window.filter(|_| self.in_window(il));
        if let Some(pairing) = self.rope_of_layer(il) {
            self.rotate(pairing, window.is_some(), &mut q);
            self.rotate(pairing, window.is_some(), &mut k);
        }
        let scores = Scores {
            scale: hp.score_scale,
            softcap: hp.attn_softcap,
            window,
            slopes: self.slopes(),
        };
        let mixed = layers::attend(&q, &k, &v, hp.head_dim, &scores);
        self.linear(&at("attn_output"), &mixed)
    }

    /// Norm of q or k, over heads, each with weights of its own or not, or over all of it; in some
    /// families only where the checkpoint has it.
    fn norm_heads(&self, name: &str, rows: &mut Rows) -> Result<()> {
        let group = match self.block.qk_norm {
            QkNorm::None => return Ok(()),
            QkNorm::Head | QkNorm::EachHead => self.hp.head_dim,
            QkNorm::Full => rows.width,
        };
        let Some(weight) = self.weights.vector(&format!("{name}.weight"))? else { return Ok(()) };
        let bias = self.weights.vector(&format!("{name}.bias"))?;
        for (i, values) in rows.values.chunks_exact_mut(group).enumerate() {
            let part = |all: &[f32]| all[i * group % all.len()..][..group].to_vec();
            let (weight, bias) = (part(&weight), bias.as_deref().map(part));
            layers::norm(self.block.norm, values, Some(&weight), bias.as_deref(), self.hp.eps);
        }
        Ok(())
    }

    fn rope_of_layer(&self, il: usize) -> Option<Pairing> {
        let every = self.block.no_rope_every as usize;
        match self.block.position {
            Position::Rope(_) if every > 0 && (il + 1).is_multiple_of(every) => None,
            Position::Rope(pairing) => Some(pairing),
            Position::Learned | Position::Alibi | Position::AlibiThenScale | Position::None => None,
        }
    }

    /// Turns all heads. Window layers may have a base of their own, and then no scaling.
    fn rotate(&self, pairing: Pairing, in_window: bool, rows: &mut Rows) {
        let Some(mut rope) = self.hp.rope.clone() else { return };
        // The session that this is compared with has room for the sample alone.
        let n_ctx = rows.n();
        match (rope.base_local.filter(|_| in_window), rope.long.take()) {
            (Some(base), _) => {
                (rope.base, rope.scale, rope.factors, rope.magnitude) = (base, 1.0, None, 1.0);
            }
            (None, Some((n_ctx_orig, long))) if n_ctx > n_ctx_orig => rope.factors = Some(long),
            _ => {}
        }
        for (position, row) in rows.iter_mut().enumerate() {
            for head in row.chunks_exact_mut(self.hp.head_dim) {
                layers::rotate(&rope, pairing, position, head);
            }
        }
    }

    fn in_window(&self, il: usize) -> bool {
        match self.block.window {
            WindowPattern::None => false,
            WindowPattern::All => true,
            WindowPattern::AllBut { every, global } => il % every as usize != global as usize,
        }
    }

    fn slopes(&self) -> Vec<f64> {
        let Hparams { n_head, alibi_max, score_scale, .. } = *self.hp;
        let factor = match self.block.position {
            Position::Alibi if alibi_max == 0.0 => return Vec::new(),
            Position::Alibi => 1.0,
            Position::AlibiThenScale => f64::from(score_scale),
            Position::Learned | Position::Rope(_) | Position::None => return Vec::new(),
        };
        (0..n_head).map(|head| factor * layers::alibi_slope(head, n_head, alibi_max)).collect()
    }

    fn feed_forward(&self, il: usize, input: &Rows) -> Result<Rows> {
        let at = |name: &str| format!("blk.{il}.{name}");
        let up = self.linear(&at("ffn_up"), input)?;
        let act = |value| layers::activate(self.hp.act, value);
        let gated = |gate: Rows, up: &Rows| {
            let mut gate = gate.map(act);
            gate.values.iter_mut().zip(&up.values).for_each(|(gate, up)| *gate *= up);
            gate
        };
        let n_ff = self.hp.n_ff;
        let inner = match self.block.ffn {
            Ffn::Plain => up.map(act),
            Ffn::Gated => gated(self.linear(&at("ffn_gate"), input)?, &up),
            Ffn::GatedFused => gated(up.narrow(0, n_ff), &up.narrow(n_ff, n_ff)),
        };
        self.linear(&at("ffn_down"), &inner)
    }

    fn head(&self, mut x: Rows) -> Result<Vec<f32>> {
        // A model whose last join ends in a norm has no final one.
        if !self.hp.post_norm || self.weights.has("output_norm.weight") {
            x = self.norm("output_norm", &x)?;
        }
        if self.weights.has("project_out.weight") {
            x = self.linear("project_out", &x)?;
        }
        if self.weights.has("cls.output.weight") {
            return self.columns("cls.output.weight", "cls.output.bias", &x);
        }
        // A tied head may have a bias of its own (CodeGen, Phi).
        let is_tied = !self.weights.has("output.weight");
        let name = if is_tied { "token_embd.weight" } else { "output.weight" };
        let mut logits = self.columns(name, "output.bias", &x)?;
        if let Some(cap) = self.hp.logit_softcap {
            logits.iter_mut().for_each(|logit| *logit = layers::soft_cap(*logit, cap));
        }
        Ok(logits)
    }

    fn norm(&self, name: &str, x: &Rows) -> Result<Rows> {
        let weight = self.weights.vector(&format!("{name}.weight"))?;
        let bias = self.weights.vector(&format!("{name}.bias"))?;
        let mut out = x.clone();
        for row in out.iter_mut() {
            let (weight, bias) = (weight.as_deref(), bias.as_deref());
            layers::norm(self.block.norm, row, weight, bias, self.hp.eps);
        }
        Ok(out)
    }

    fn linear(&self, name: &str, x: &Rows) -> Result<Rows> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        Ok(Rows::from_columns(&self.columns(&weight, &bias, x)?, x.n()))
    }

    /// Products with a matrix, its bias added, `[n_out, n]`.
    fn columns(&self, weight: &str, bias: &str, x: &Rows) -> Result<Vec<f32>> {
        let mut columns = self.weights.columns(weight, x)?;
        if let Some(bias) = self.weights.vector(bias)? {
            for (column, bias) in columns.chunks_exact_mut(x.n()).zip(bias) {
                column.iter_mut().for_each(|value| *value += bias);
            }
        }
        Ok(columns)
    }
}
