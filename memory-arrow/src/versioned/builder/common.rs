//! The methods that are the same for all builders.

/// Implements [`ArrayBuilder`](super::ArrayBuilder) for a builder by its inherent methods, and writes the inherent
/// methods that are the same for several builders.
///
/// `data_type` is an expression of the builder's data type, and `finish` one of the finished array. The name
/// between bars is that of the builder. `methods` lists the inherent methods to be written:
///
/// * `keys` writes `len`, `append_null` and `append_nulls` by those of the field `keys`.
/// * `is_empty` calls `len`, and `append_null` calls `append_nulls`.
/// * `append_option(V)` calls `append` with a `V`. `append_option(V => drop)` drops the value that `append` returns.
/// * `append_slice(V, |value| …)` and `append_values(V, |value| …)` append value by value. The expression makes
///   the argument of `append` of a `&V`.
macro_rules! array_builder {
    (
        impl[$($generics:tt)*] for $builder:ty;
        data_type: |$typed:ident| $data_type:expr;
        finish: |$finished:ident| $finish:expr;
        methods: $($method:ident $(($($arguments:tt)*))?),*;
    ) => {
        impl<$($generics)*> $builder {
            $(array_builder! { @ $method $(($($arguments)*))? })*
        }

        impl<$($generics)*> super::ArrayBuilder for $builder {
            fn data_type(&self) -> super::DataType {
                let $typed = self;
                $data_type
            }

            fn len(&self) -> usize {
                self.len()
            }

            #[track_caller]
            fn append_nulls(&mut self, n: usize) -> Result<(), super::MemoryError> {
                self.append_nulls(n)
            }

            #[track_caller]
            fn finish_array(&mut self) -> Result<super::ArrayRef, super::MemoryError> {
                let $finished = self;
                Ok(super::array_ref($finish))
            }
        }
    };
    (@ keys) => {
        /// The number of rows so far.
        pub fn len(&self) -> usize {
            self.keys.len()
        }

        /// Appends a null row.
        ///
        /// # Errors
        ///
        /// [`MemoryError::Alloc`] if the builder cannot grow. No row is added then.
        #[track_caller]
        pub fn append_null(&mut self) -> Result<(), super::MemoryError> {
            self.keys.append_null()
        }

        /// Appends `n` null rows.
        ///
        /// # Errors
        ///
        /// [`MemoryError::Alloc`] if the builder cannot grow. No row is added then.
        #[track_caller]
        pub fn append_nulls(&mut self, n: usize) -> Result<(), super::MemoryError> {
            self.keys.append_nulls(n)
        }
    };
    (@ is_empty) => {
        /// Whether there are no rows.
        #[inline]
        pub fn is_empty(&self) -> bool {
            self.len() == 0
        }
    };
    (@ append_null) => {
        /// Appends a null row.
        ///
        /// # Errors
        ///
        /// [`MemoryError::Alloc`] if the builder cannot grow, or another error that
        /// [`append_nulls`](Self::append_nulls) lists. No row is added then.
        #[track_caller]
        pub fn append_null(&mut self) -> Result<(), super::MemoryError> {
            self.append_nulls(1)
        }
    };
    (@ append_option($value:ty $(=> $ignore:path)?)) => {
        /// Appends a value, or a null row for `None`.
        ///
        /// # Errors
        ///
        /// [`MemoryError::Alloc`] if the builder cannot grow, or another error that
        /// [`append`](Self::append) lists. No row is added then.
        #[inline]
        #[track_caller]
        pub fn append_option(&mut self, value: Option<$value>) -> Result<(), super::MemoryError> {
            match value {
                Some(value) => self.append(value)$(.map($ignore))?,
                None => self.append_null(),
            }
        }
    };
    (@ append_slice($value:ty, |$each:ident| $get:expr)) => {
        /// Appends values, none of them null.
        ///
        /// # Errors
        ///
        /// [`MemoryError::Alloc`] if the builder cannot grow, or another error that
        /// [`append`](Self::append) lists. The values before the one that failed are there then.
        #[track_caller]
        pub fn append_slice(&mut self, values: &[$value]) -> Result<(), super::MemoryError> {
            for $each in values {
                self.append($get)?;
            }
            Ok(())
        }
    };
    (@ append_values($value:ty, |$each:ident| $get:expr)) => {
        /// Appends values, and null rows in place of those where `valid` is false. Without `valid`, no
        /// row is null.
        ///
        /// # Errors
        ///
        /// * [`MemoryError::Value`] if `values` and `valid` have different lengths. No row is added then.
        /// * [`MemoryError::Alloc`] if the builder cannot grow, or another error that
        ///   [`append`](Self::append) lists. The rows before the one that failed are there then.
        #[track_caller]
        pub fn append_values(
            &mut self,
            values: &[$value],
            valid: Option<&[bool]>,
        ) -> Result<(), super::MemoryError> {
            let Some(valid) = valid else {
                return self.append_slice(values);
            };
            super::check_lengths(values.len(), valid.len())?;
            for ($each, &valid) in values.iter().zip(valid) {
                self.append_option(valid.then(|| $get))?;
            }
            Ok(())
        }
    };
}

pub(super) use array_builder;
