//! Structs of other builders' values.

use arrow_memory_core::BufferAllocator;

use super::{ArrayBuilder, Validity, array_builder, make_builder, wrong};
use crate::error::MemoryError;

use super::super::deps::arrow_array::{ArrayRef, StructArray};
use super::super::deps::arrow_schema::{DataType, Fields};

/// Builds an array of structs. For each struct, append a value to each of the fields, then call
/// [`append`](Self::append).
///
/// ```
/// # use arrow_memory_system as _;
/// # let root = arrow_memory_core::RootAllocator::new(1 << 20);
/// use arrow_memory_arrow::builder::{Int32Builder, StringBuilder, StructBuilder};
/// use arrow_memory_arrow::deps::arrow_schema::{DataType, Field};
///
/// let fields = vec![
///     Field::new("id", DataType::Int32, true),
///     Field::new("name", DataType::Utf8, true),
/// ];
/// let mut builder = StructBuilder::new(&root, fields)?;
/// builder.field::<Int32Builder>(0).unwrap().append(7)?;
/// builder.field::<StringBuilder>(1).unwrap().append("seven")?;
/// builder.append()?;
/// builder.append_null()?;
/// assert_eq!(builder.finish()?.column(0).len(), 2);
/// # Ok::<(), arrow_memory_arrow::MemoryError>(())
/// ```
pub struct StructBuilder {
    fields: Fields,
    builders: Vec<Box<dyn ArrayBuilder>>,
    rows: usize,
    validity: Validity,
    /// The columns that a call of [`finish`](Self::finish) got before a further field failed. The next call
    /// continues with that field.
    finished: Vec<ArrayRef>,
}

impl StructBuilder {
    /// Makes an empty builder, and one for each field, whose memory comes from `allocator`. No memory is charged
    /// yet.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Value`] if [`make_builder`] has no builder for the type of a field.
    pub fn new(
        allocator: &BufferAllocator,
        fields: impl Into<Fields>,
    ) -> Result<Self, MemoryError> {
        let fields = fields.into();
        let builders = fields
            .iter()
            .map(|field| make_builder(field.data_type(), allocator))
            .collect::<Result<_, _>>()?;
        Self::with_builders(allocator, fields, builders)
    }

    /// Makes an empty builder of the builders of the fields.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Value`] if their types are not the fields', or they are not empty.
    pub fn with_builders(
        allocator: &BufferAllocator,
        fields: Fields,
        builders: Vec<Box<dyn ArrayBuilder>>,
    ) -> Result<Self, MemoryError> {
        if fields.len() != builders.len() {
            return wrong(format!(
                "{} fields, {} builders",
                fields.len(),
                builders.len()
            ));
        }
        for (field, builder) in fields.iter().zip(&builders) {
            if *field.data_type() != builder.data_type() || !builder.is_empty() {
                return wrong(format!(
                    "field `{}` of {} cannot be built of {} values of {}",
                    field.name(),
                    field.data_type(),
                    builder.len(),
                    builder.data_type()
                ));
            }
        }
        Ok(Self {
            fields,
            builders,
            rows: 0,
            validity: Validity::new(allocator),
            finished: Vec::new(),
        })
    }

    /// The builder of field `index`, if it is a `B`.
    pub fn field<B: ArrayBuilder>(&mut self, index: usize) -> Option<&mut B> {
        self.builders.get_mut(index)?.downcast_mut()
    }

    /// The builders of all fields.
    pub fn builders(&mut self) -> &mut [Box<dyn ArrayBuilder>] {
        &mut self.builders
    }

    /// The number of structs so far.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Ends a struct.
    ///
    /// # Errors
    ///
    /// * [`MemoryError::Value`] if a field did not get exactly one value, or if a [`finish`](Self::finish) that
    ///   failed has to be called again first.
    /// * [`MemoryError::Alloc`] if the builder cannot grow.
    ///
    /// The builder is as it was then.
    #[track_caller]
    pub fn append(&mut self) -> Result<(), MemoryError> {
        self.check_unfinished()?;
        self.check_fields(self.rows + 1)?;
        self.validity.reserve(self.rows, 1, false)?;
        self.validity.append_valid()?;
        self.rows += 1;
        Ok(())
    }

    /// Appends `n` null structs, with a null value in each field.
    ///
    /// # Errors
    ///
    /// * [`MemoryError::Value`] if a field has values of a struct that was not ended, or if a
    ///   [`finish`](Self::finish) that failed has to be called again first. The builder is as it was then.
    /// * [`MemoryError::Alloc`] if the builder or a field cannot grow. The fields before the one that failed have
    ///   their null values then, and the next call with the same `n` continues with that field.
    #[track_caller]
    pub fn append_nulls(&mut self, n: usize) -> Result<(), MemoryError> {
        self.check_unfinished()?;
        let goal = self.rows.saturating_add(n);
        for (field, builder) in self.fields.iter().zip(&self.builders) {
            if builder.len() < self.rows || builder.len() > goal {
                return uneven(field.name(), builder.len(), self.rows);
            }
        }
        self.validity.reserve(self.rows, n, n > 0)?;
        for builder in &mut self.builders {
            builder.append_nulls(goal - builder.len())?;
        }
        self.validity.append_nulls(self.rows, n)?;
        self.rows = goal;
        Ok(())
    }

    /// Returns the array of the rows so far. The builder is empty then, and can be used again.
    ///
    /// # Errors
    ///
    /// * [`MemoryError::Value`] if a field has another number of values.
    /// * The errors of the fields' `finish_array`.
    ///
    /// All rows are still in the builder then. If a field's `finish_array` failed, the columns of the fields
    /// before it are kept, and no row can be appended until another call of this, which continues with that
    /// field.
    ///
    /// * [`MemoryError::Arrow`] if a field that is not nullable has nulls. The rows are dropped then.
    #[track_caller]
    pub fn finish(&mut self) -> Result<StructArray, MemoryError> {
        self.check_fields(self.rows)?;
        for builder in &mut self.builders[self.finished.len()..] {
            self.finished.push(builder.finish_array()?);
        }
        let columns = std::mem::take(&mut self.finished);
        let rows = std::mem::take(&mut self.rows);
        let nulls = self.validity.finish(rows);
        Ok(StructArray::try_new_with_length(
            self.fields.clone(),
            columns,
            nulls,
            rows,
        )?)
    }

    fn check_fields(&self, rows: usize) -> Result<(), MemoryError> {
        let unfinished = self.fields.iter().zip(&self.builders);
        for (field, builder) in unfinished.skip(self.finished.len()) {
            if builder.len() != rows {
                return uneven(field.name(), builder.len(), rows);
            }
        }
        Ok(())
    }

    fn check_unfinished(&self) -> Result<(), MemoryError> {
        if self.finished.is_empty() {
            return Ok(());
        }
        wrong("some columns are finished, and others failed: finish again first".into())
    }
}

#[cold]
fn uneven(field: &str, found: usize, rows: usize) -> Result<(), MemoryError> {
    wrong(format!("field `{field}` has {found} values in {rows} rows"))
}

array_builder! {
    impl[] for StructBuilder;
    data_type: |builder| DataType::Struct(builder.fields.clone());
    finish: |builder| builder.finish()?;
    methods: is_empty, append_null;
}

impl std::fmt::Debug for StructBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StructBuilder")
            .field("fields", &self.fields)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}
