//! Where in a source file a mutant can be a branch.

use std::collections::BTreeMap;
use std::ops::Range;

use proc_macro2::{LineColumn, Span};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Arm, Block, Expr, ExprBinary, ExprUnary, ImplItemFn, ItemFn, TraitItemFn, UnOp};

/// An expression, a function's body or a pattern, as bytes of the file, and its mutants: number and replacement.
pub struct Place {
    pub start: usize,
    pub end: usize,
    pub shape: Shape,
    pub mutants: Vec<(usize, String)>,
}

pub enum Shape {
    Binary {
        operator: Range<usize>,
    },
    Unary {
        operand: usize,
    },
    /// The expression of a match guard.
    Guard,
    /// The pattern of an arm without a guard, which gets one.
    Pattern,
    /// The statements of a function.
    Body,
}

/// The places of a file.
pub struct Places {
    /// By what the mutant is called for, and the line and column at which it begins.
    by_start: BTreeMap<(&'static str, usize, usize), Place>,
    lines: Vec<usize>,
    text: String,
}

impl Places {
    pub fn of(text: &str) -> syn::Result<Self> {
        let mut lines = vec![0];
        lines.extend(text.match_indices('\n').map(|(at, _)| at + 1));
        let mut places = Self {
            by_start: BTreeMap::new(),
            lines,
            text: text.to_owned(),
        };
        places.visit_file(&syn::parse_file(text)?);
        Ok(places)
    }

    /// Adds a mutant, or says why it has no place.
    pub fn add(
        &mut self,
        genre: &str,
        (line, column): (usize, usize),
        number: usize,
        replacement: &str,
    ) -> Result<(), &'static str> {
        let kind = match genre {
            "FnValue" => "body",
            "BinaryOperator" => "binary",
            "UnaryOperator" => "unary",
            "MatchArm" => "pattern",
            "MatchArmGuard" => "guard",
            _ => return Err("a kind of mutant that cannot be a branch"),
        };
        let place = self.by_start.get_mut(&(kind, line, column - 1));
        let place = place.ok_or("in a constant, or a condition with `let`")?;
        place.mutants.push((number, replacement.to_owned()));
        Ok(())
    }

    /// The places that have mutants, sorted by their starts, outer ones first.
    pub fn used(&self) -> Vec<&Place> {
        let mut used: Vec<_> = self
            .by_start
            .values()
            .filter(|place| !place.mutants.is_empty())
            .collect();
        // A body begins where its first expression does, and is outside it.
        let rank = |place: &Place| !matches!(place.shape, Shape::Body);
        used.sort_by_key(|place| (place.start, std::cmp::Reverse(place.end), rank(place)));
        used
    }

    fn offset(&self, at: LineColumn) -> usize {
        let line = self.lines[at.line - 1];
        let rest = &self.text[line..];
        line + rest
            .char_indices()
            .nth(at.column)
            .map_or(rest.len(), |(byte, _)| byte)
    }

    fn insert(&mut self, kind: &'static str, key: Span, whole: Range<Span>, shape: Shape) {
        let (start, end) = (
            self.offset(whole.start.start()),
            self.offset(whole.end.end()),
        );
        let at = key.start();
        self.by_start.insert(
            (kind, at.line, at.column),
            Place {
                start,
                end,
                shape,
                mutants: Vec::new(),
            },
        );
    }

    fn body(&mut self, block: &Block) {
        if let (Some(first), Some(last)) = (block.stmts.first(), block.stmts.last()) {
            self.insert("body", first.span(), first.span()..last.span(), Shape::Body);
        }
    }
}

/// Whether the operands of `&&` at the top of a condition have a `let`, which no block may be around.
fn has_let(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(ExprBinary { left, right, .. }) => has_let(left) || has_let(right),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Places {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if item.sig.constness.is_none() {
            self.body(&item.block);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if item.sig.constness.is_none() {
            self.body(&item.block);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        if let Some(block) = &item.default {
            self.body(block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    // Constants are computed by the compiler, which has no environment.
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_type_array(&mut self, _: &'ast syn::TypeArray) {}

    fn visit_expr_binary(&mut self, expr: &'ast ExprBinary) {
        if !has_let(&expr.left) && !has_let(&expr.right) {
            let operator = self.offset(expr.op.span().start())..self.offset(expr.op.span().end());
            let whole = expr.left.span()..expr.right.span();
            self.insert("binary", expr.op.span(), whole, Shape::Binary { operator });
        }
        visit::visit_expr_binary(self, expr);
    }

    fn visit_expr_unary(&mut self, expr: &'ast ExprUnary) {
        if matches!(expr.op, UnOp::Not(_) | UnOp::Neg(_)) {
            let operand = self.offset(expr.expr.span().start());
            self.insert(
                "unary",
                expr.op.span(),
                expr.span()..expr.span(),
                Shape::Unary { operand },
            );
        }
        visit::visit_expr_unary(self, expr);
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        match &arm.guard {
            Some((_, guard)) if !has_let(guard) => {
                self.insert(
                    "guard",
                    guard.span(),
                    guard.span()..guard.span(),
                    Shape::Guard,
                );
            }
            Some(_) => {}
            None => self.insert(
                "pattern",
                arm.span(),
                arm.pat.span()..arm.pat.span(),
                Shape::Pattern,
            ),
        }
        visit::visit_arm(self, arm);
    }
}
