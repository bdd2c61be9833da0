//! `SELECT * FROM memory()`: the operators of all queries that are alive, a row for each.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::stream;

use crate::queries::Queries;
use crate::report::{OperatorReport, QueryReport};

/// The name of a column, and its number of an operator.
type Number = (&'static str, fn(&OperatorReport) -> u64);

/// The columns of numbers, in their order.
const NUMBERS: [Number; 9] = [
    ("declared", |operator| operator.declared as u64),
    ("held", |operator| operator.held as u64),
    ("charged", |operator| operator.charged as u64),
    ("peak", |operator| operator.peak as u64),
    ("spilled", |operator| operator.spilled_bytes as u64),
    ("refused", |operator| operator.refused),
    ("forced", |operator| operator.forced_bytes),
    ("revoked", |operator| operator.revoked),
    ("consumers", |operator| operator.consumers as u64),
];

/// The table function. Each execution of a plan reads the operators anew.
#[derive(Clone, Debug)]
pub(crate) struct MemoryTable {
    queries: Arc<Queries>,
    schema: SchemaRef,
}

impl MemoryTable {
    pub(crate) fn new(queries: &Arc<Queries>) -> Self {
        let names = ["query", "operator"].map(|name| Field::new(name, DataType::Utf8, false));
        let numbers = NUMBERS.map(|(name, _)| Field::new(name, DataType::UInt64, false));
        let fields: Vec<Field> = names.into_iter().chain(numbers).collect();
        Self {
            queries: Arc::clone(queries),
            schema: Arc::new(Schema::new(fields)),
        }
    }

    fn read(&self) -> Result<RecordBatch> {
        let queries = self.queries.alive();
        let reports: Vec<QueryReport> =
            queries.iter().map(|query| QueryReport::of(query)).collect();
        let rows: Vec<(&QueryReport, &OperatorReport)> = reports
            .iter()
            .flat_map(|query| {
                query
                    .operators
                    .iter()
                    .map(move |operator| (query, operator))
            })
            .collect();
        let queries = rows.iter().map(|(query, _)| query.name.as_str());
        let operators = rows.iter().map(|(_, operator)| operator.name.as_str());
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(queries)),
            Arc::new(StringArray::from_iter_values(operators)),
        ];
        for (_, number) in NUMBERS {
            let numbers = rows.iter().map(|(_, operator)| number(operator));
            columns.push(Arc::new(UInt64Array::from_iter_values(numbers)));
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

impl TableFunctionImpl for MemoryTable {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        if !args.exprs().is_empty() {
            return plan_err!("memory() takes no arguments");
        }
        let partition: Arc<dyn PartitionStream> = Arc::new(self.clone());
        let table = StreamingTable::try_new(Arc::clone(&self.schema), vec![partition])?;
        Ok(Arc::new(table))
    }
}

impl PartitionStream for MemoryTable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let table = self.clone();
        // It reads when it is polled: then the query that asks is alive, too.
        let rows = stream::once(async move { table.read() });
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            rows,
        ))
    }
}
