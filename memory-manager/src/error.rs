//! How errors print, and why there is no such backend.
//!
//! `Display` of an error is one line, and `{:#}` adds the sources. `Debug` is what a program prints that
//! calls `unwrap`, or returns the error from `main`: it is the text of `{:#}`, and `{:#?}` shows the fields.

use std::error::Error;
use std::fmt;

mod backend;

pub use backend::BackendError;

/// `Debug` for an error: `{:?}` prints what `{:#}` prints, and `{:#?}` the fields, which are listed.
#[doc(hidden)]
#[macro_export]
macro_rules! __debug_as_display {
    (struct $Type:ident $fields:tt) => {
        $crate::__debug_as_display!(@impl $Type, self, f, {
            let Self $fields = self;
            $crate::__debug_as_display!(@fields f $Type $fields)
        });
    };
    (enum $Type:ident {
        $($Variant:ident $({ $($field:ident),* $(,)? })? $(($($item:ident),*))?),* $(,)?
    }) => {
        $crate::__debug_as_display!(@impl $Type, self, f, {
            match self {
                $(Self::$Variant $({ $($field),* })? $(($($item),*))? => {
                    $crate::__debug_as_display!(
                        @fields f $Variant $({ $($field),* })? $(($($item),*))?
                    )
                })*
            }
        });
    };
    (@impl $Type:ident, $self:ident, $f:ident, $body:block) => {
        impl ::std::fmt::Debug for $Type {
            fn fmt(&$self, $f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                if $f.alternate() {
                    $body
                } else {
                    ::std::write!($f, "{:#}", $self)
                }
            }
        }
    };
    (@fields $f:ident $Name:ident) => {
        $f.write_str(::std::stringify!($Name))
    };
    (@fields $f:ident $Name:ident { $($field:ident),* $(,)? }) => {
        $f.debug_struct(::std::stringify!($Name))
            $(.field(::std::stringify!($field), $field))*
            .finish()
    };
    (@fields $f:ident $Name:ident ( $($item:ident),* )) => {
        $f.debug_tuple(::std::stringify!($Name))$(.field($item))*.finish()
    };
}

/// Writes the sources of `error`, each after a colon, if `f` was asked for `{:#}`.
///
/// # Errors
///
/// [`fmt::Error`] if the text cannot be written.
pub fn write_sources(f: &mut fmt::Formatter<'_>, error: &dyn Error) -> fmt::Result {
    if !f.alternate() {
        return Ok(());
    }
    write!(f, "{}", Sources(error))
}

/// The sources of an error, each after a colon.
struct Sources<'a>(&'a dyn Error);

impl fmt::Display for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut next = self.0.source();
        while let Some(source) = next {
            write!(f, ": {source}")?;
            next = source.source();
        }
        Ok(())
    }
}

/// An error and its sources in one line, for logs and panics.
pub struct OneLine<'a>(pub &'a dyn Error);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0, Sources(self.0))
    }
}
