//! UnoPE, the "universal rotary position embedding" of UNO: references get positions of their own (paper section 3.3).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uno_core::flux::PositionId;
use uno_core::latents::{grid_ids, text_ids};

use crate::error::{Error, Result};

/// By what a reference's positions are moved away from those of the pictures before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnoPe {
    /// Diagonally: rows and columns. No two pictures share a position. UNO's choice.
    #[default]
    D,
    /// Rows only.
    H,
    /// Columns only.
    W,
    /// Not at all: every picture starts at the origin.
    O,
}

impl FromStr for UnoPe {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "d" => Ok(Self::D),
            "h" => Ok(Self::H),
            "w" => Ok(Self::W),
            "o" => Ok(Self::O),
            other => Err(Error::request(
                "pe",
                other,
                "d (diagonal), h (rows only), w (columns only) or o (no offset)",
            )),
        }
    }
}

impl fmt::Display for UnoPe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::D => "d",
            Self::H => "h",
            Self::W => "w",
            Self::O => "o",
        })
    }
}

/// Rows and columns of a picture's token grid.
pub type Grid = (usize, usize);

/// First position (row, column) of each reference (official `flux/sampling.py: prepare_multi_ip`).
///
/// The first reference starts where the latent's grid ends; each further one where the one before it ends.
pub fn reference_origins(pe: UnoPe, latent: Grid, references: &[Grid]) -> Vec<(usize, usize)> {
    let (mut row, mut column) = latent;
    references
        .iter()
        .map(|&(rows, columns)| {
            let origin = match pe {
                UnoPe::D => (row, column),
                UnoPe::H => (row, 0),
                UnoPe::W => (0, column),
                UnoPe::O => (0, 0),
            };
            row += rows;
            column += columns;
            origin
        })
        .collect()
}

/// Positions of the whole sequence: text tokens, the noisy latent's grid, then each reference's grid.
pub fn sequence_ids(pe: UnoPe, text_tokens: usize, latent: Grid, references: &[Grid]) -> Vec<PositionId> {
    let mut ids = text_ids(text_tokens);
    ids.extend(grid_ids(latent.0, latent.1, (0, 0)));
    for (&(rows, columns), origin) in references.iter().zip(reference_origins(pe, latent, references)) {
        ids.extend(grid_ids(rows, columns, origin));
    }
    ids
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn grid() -> impl Strategy<Value = Grid> {
        (1usize..40, 1usize..40)
    }

    proptest! {
        #[test]
        fn in_mode_d_no_two_pictures_share_a_row_or_a_column(
            latent in grid(),
            references in proptest::collection::vec(grid(), 0..6),
        ) {
            let origins = reference_origins(UnoPe::D, latent, &references);
            let mut spans = vec![(0, latent.0, 0, latent.1)];
            spans.extend(origins.iter().zip(&references).map(|(o, g)| (o.0, o.0 + g.0, o.1, o.1 + g.1)));
            for (i, a) in spans.iter().enumerate() {
                for b in &spans[i + 1..] {
                    prop_assert!(a.1 <= b.0 || b.1 <= a.0, "rows of {a:?} and {b:?} overlap");
                    prop_assert!(a.3 <= b.2 || b.3 <= a.2, "columns of {a:?} and {b:?} overlap");
                }
            }
        }

        #[test]
        fn in_mode_d_all_ids_of_pictures_differ(
            latent in grid(),
            references in proptest::collection::vec(grid(), 0..4),
        ) {
            let ids = sequence_ids(UnoPe::D, 0, latent, &references);
            let distinct: HashSet<_> = ids.iter().map(|id| id.map(f32::to_bits)).collect();
            prop_assert_eq!(distinct.len(), ids.len());
        }

        #[test]
        fn the_first_reference_is_disjoint_in_modes_h_and_w_too(latent in grid(), reference in grid()) {
            for pe in [UnoPe::H, UnoPe::W] {
                let ids = sequence_ids(pe, 0, latent, &[reference]);
                let distinct: HashSet<_> = ids.iter().map(|id| id.map(f32::to_bits)).collect();
                prop_assert_eq!(distinct.len(), ids.len());
            }
        }
    }

    #[test]
    fn in_mode_o_every_picture_starts_at_the_origin() {
        assert_eq!(reference_origins(UnoPe::O, (4, 4), &[(2, 2), (3, 3)]), [(0, 0), (0, 0)]);
    }

    #[test]
    fn text_tokens_are_all_zero() {
        assert_eq!(sequence_ids(UnoPe::D, 3, (1, 1), &[])[..3], [[0.0; 3]; 3]);
    }

    #[test]
    fn modes_are_read_and_written_by_their_letter() {
        for letter in ["d", "h", "w", "o"] {
            assert_eq!(letter.parse::<UnoPe>().unwrap().to_string(), letter);
        }
        assert!("x".parse::<UnoPe>().unwrap_err().to_string().contains("diagonal"));
    }
}
