//! The requested columns, and parts of columns.

use std::sync::Arc;

use arrow_memory_arrow::arrow_60::deps::arrow_array::{
    Array, ArrayRef, RecordBatch, RecordBatchOptions, StructArray,
};
use arrow_memory_arrow::arrow_60::deps::arrow_schema::{
    ArrowError, DataType, Field, FieldRef, Fields, Schema, SchemaRef,
};

use crate::failure::Failure;
use crate::lists::Element;

/// The columns of a schema that are read, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection(Vec<(usize, Choice)>);

/// The part of a field that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Whole,
    /// Only these fields of a struct, in the struct's order.
    Fields(Vec<(usize, Choice)>),
}

impl Selection {
    /// Selects the columns with these names, or all if there are no names. `s.a` is field `a` of the struct
    /// `s`, unless a column has that name.
    ///
    /// # Errors
    ///
    /// If there is no such column, with the exit code for the command line.
    pub(super) fn of(schema: &Schema, columns: &[Element]) -> Result<Self, Failure> {
        let fields = schema.fields();
        let mut chosen: Vec<Option<Choice>> = vec![None; fields.len()];
        if columns.is_empty() {
            chosen.fill(Some(Choice::Whole));
        }
        for column in columns {
            let path = path(fields, column)?;
            let (name, below) = path
                .split_first()
                .map_or(("", &[][..]), |(name, below)| (name, below));
            for (field, choice) in fields.iter().zip(&mut chosen) {
                if field.name() == name {
                    add(choice, field, below, &column.text)?;
                }
            }
        }
        let chosen = chosen.into_iter().enumerate();
        Ok(Self(
            chosen
                .filter_map(|(index, choice)| Some((index, choice?)))
                .collect(),
        ))
    }

    /// The indices of the columns that are read, wholly or in part.
    pub(super) fn roots(&self) -> Vec<usize> {
        self.0.iter().map(|(index, _)| *index).collect()
    }

    /// The part that is read of the column at `index`.
    pub(super) fn of_root(&self, index: usize) -> Option<&Choice> {
        let found = self.0.iter().find(|(root, _)| *root == index)?;
        Some(&found.1)
    }

    /// The schema of the selected parts.
    pub(super) fn schema(&self, schema: &Schema) -> Schema {
        let fields: Fields = narrow_fields(schema.fields(), &self.0);
        Schema::new_with_metadata(fields, schema.metadata().clone())
    }

    /// Takes the selected parts out of a batch that consists of the columns of [`roots`](Self::roots).
    pub(super) fn narrow(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        if self.0.iter().all(|(_, choice)| *choice == Choice::Whole) {
            return Ok(batch.clone());
        }
        let columns = batch.columns().iter().zip(&self.0);
        let columns: Vec<ArrayRef> = columns
            .map(|(column, (_, choice))| narrow_array(column, choice))
            .collect();
        let fields: Fields = batch
            .schema()
            .fields()
            .iter()
            .zip(&self.0)
            .map(|(field, (_, choice))| narrow_field(field, choice))
            .collect();
        let schema = Schema::new_with_metadata(fields, batch.schema().metadata().clone());
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(schema), columns, &options)
    }
}

impl Choice {
    /// Whether a value at this path below the field is read. Some formats have the names of lists' elements
    /// in their paths; those lie below fields that are read as a whole.
    pub(super) fn has(&self, fields: &DataType, path: &[String]) -> bool {
        match (self, fields) {
            (Self::Whole, _) => true,
            (Self::Fields(chosen), DataType::Struct(fields)) => {
                let Some((name, below)) = path.split_first() else {
                    return false;
                };
                chosen.iter().any(|(index, choice)| {
                    let field = &fields[*index];
                    field.name() == name && choice.has(field.data_type(), below)
                })
            }
            _ => false,
        }
    }
}

/// The names on the path to a column: only one if a column has the whole text as its name.
fn path(fields: &Fields, column: &Element) -> Result<Vec<String>, Failure> {
    let has = |name: &str| fields.iter().any(|field| field.name() == name);
    if has(&column.text) {
        return Ok(vec![column.text.clone()]);
    }
    let path = column.split(b'.');
    if path.len() > 1 && path.first().is_some_and(|name| has(name)) {
        return Ok(path);
    }
    Err(unknown("column", &column.text, fields))
}

/// Adds the field at `path` below `field` to the choice.
fn add(
    chosen: &mut Option<Choice>,
    field: &Field,
    path: &[String],
    whole: &str,
) -> Result<(), Failure> {
    let Some((name, below)) = path.split_first() else {
        *chosen = Some(Choice::Whole);
        return Ok(());
    };
    let DataType::Struct(fields) = field.data_type() else {
        return Err(Failure::usage(format!(
            "there is no `{whole}`: `{}` is of type {}, and only structs have parts that can be named",
            field.name(),
            field.data_type()
        )));
    };
    let Some((index, inner)) = fields.find(name) else {
        return Err(unknown("field", whole, fields));
    };
    let parts = match chosen {
        Some(Choice::Whole) => return Ok(()),
        Some(Choice::Fields(parts)) => parts,
        None => match chosen.insert(Choice::Fields(Vec::new())) {
            Choice::Fields(parts) => parts,
            Choice::Whole => return Ok(()),
        },
    };
    let place = parts.partition_point(|(other, _)| *other < index);
    let mut part = match parts.get(place) {
        Some((other, _)) if *other == index => Some(parts.remove(place).1),
        _ => None,
    };
    add(&mut part, inner, below, whole)?;
    if let Some(part) = part {
        parts.insert(place, (index, part));
    }
    Ok(())
}

fn narrow_fields(fields: &Fields, chosen: &[(usize, Choice)]) -> Fields {
    chosen
        .iter()
        .map(|(index, choice)| narrow_field(&fields[*index], choice))
        .collect()
}

fn narrow_field(field: &FieldRef, choice: &Choice) -> FieldRef {
    match (choice, field.data_type()) {
        (Choice::Fields(chosen), DataType::Struct(fields)) => {
            let kept = DataType::Struct(narrow_fields(fields, chosen));
            Arc::new(field.as_ref().clone().with_data_type(kept))
        }
        _ => Arc::clone(field),
    }
}

fn narrow_array(array: &ArrayRef, choice: &Choice) -> ArrayRef {
    let (Choice::Fields(chosen), Some(structs)) =
        (choice, array.as_any().downcast_ref::<StructArray>())
    else {
        return Arc::clone(array);
    };
    let fields = narrow_fields(structs.fields(), chosen);
    let columns = chosen
        .iter()
        .map(|(index, choice)| narrow_array(structs.column(*index), choice))
        .collect();
    let nulls = structs.nulls().cloned();
    Arc::new(StructArray::new(fields, columns, nulls))
}

/// The error that there is no such column. It suggests a similar name, and lists the columns.
fn unknown(what: &str, name: &str, fields: &Fields) -> Failure {
    const SHOWN: usize = 20;

    let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    let last = name.rsplit('.').next().unwrap_or(name);
    let meant = names
        .iter()
        .map(|known| (distance(name, known).min(distance(last, known)), known))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, known)| *distance <= (known.chars().count() / 3).max(1));
    let meant = match meant {
        Some((_, known)) => format!("did you mean `{known}`? "),
        None => String::new(),
    };
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown = &names[..names.len().min(SHOWN)];
    Failure::usage(format!(
        "it has no {what} `{name}`; {meant}it has: {}{more}",
        shown.join(", ")
    ))
}

/// The number of letters that differ, without regard to case.
fn distance(one: &str, other: &str) -> usize {
    strsim::damerau_levenshtein(&one.to_lowercase(), &other.to_lowercase())
}

/// The schema of the selected parts, behind an `Arc`.
pub(super) fn narrowed(selection: &Selection, schema: &Schema) -> SchemaRef {
    Arc::new(selection.schema(schema))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lists::elements;

    fn schema() -> Schema {
        let inner = Fields::from(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("b.c", DataType::Utf8, true),
        ]);
        Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("s", DataType::Struct(inner), true),
            Field::new("x.y", DataType::Int64, true),
        ])
    }

    fn chosen(columns: &str) -> Result<String, Failure> {
        let selection = Selection::of(&schema(), &elements(columns).unwrap())?;
        let schema = selection.schema(&schema());
        let text = |field: &FieldRef| match field.data_type() {
            DataType::Struct(fields) => {
                let names: Vec<&str> = fields.iter().map(|f| f.name().as_str()).collect();
                format!("{}({})", field.name(), names.join(" "))
            }
            _ => field.name().clone(),
        };
        Ok(schema
            .fields()
            .iter()
            .map(text)
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn columns_and_fields_of_structs_are_chosen_in_the_order_of_the_file() {
        assert_eq!(chosen("s, id").unwrap(), "id s(a b.c)");
        assert_eq!(chosen("s.a").unwrap(), "s(a)");
        assert_eq!(chosen("x.y").unwrap(), "x.y");
        assert_eq!(chosen("s.\"b.c\"").unwrap(), "s(b.c)");
        assert_eq!(chosen("s.\"b.c\",s.a,s.a").unwrap(), "s(a b.c)");
        assert_eq!(chosen("s.a,s").unwrap(), "s(a b.c)");
        assert_eq!(chosen("s,s.a").unwrap(), "s(a b.c)");
    }

    #[test]
    fn what_is_not_there_is_told_with_what_may_have_been_meant() {
        for (columns, words) in [
            ("ID2", "did you mean `id`?"),
            ("s.A", "did you mean `a`?"),
            ("nothing", "it has: id, s, x.y"),
            ("id.a", "only structs"),
        ] {
            let failure = chosen(columns).unwrap_err().to_string();
            assert!(failure.contains(words), "{columns}: {failure}");
        }
    }
}
