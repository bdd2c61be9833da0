//! Arrays that come and go over the C Data Interface.
#![expect(unsafe_code, reason = "imports what it has just exported")]

use arrow_memory_arrow::deps::arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_memory_arrow::{
    Accounted, FFI_ArrowArray, FFI_ArrowSchema, export_array, export_array_into, export_batch,
    import_array, import_batch, import_trusted,
};

use crate::state::{Charged, Opaque};
use crate::sweep::{Operation, op};

pub(crate) const OPERATIONS: &[Operation] = &[
    op("export_array", |w| {
        let mut array = numbers().adopt(&w.leaf).unwrap();
        w.act(&mut array, |it| export_array(it).map(Opaque));
    }),
    op("export_array_into", |w| {
        let mut array = numbers().adopt(&w.leaf).unwrap();
        w.act(&mut array, |it| {
            let (mut to, mut schema) = (FFI_ArrowArray::empty(), FFI_ArrowSchema::empty());
            // SAFETY: both are valid for writes, and are released.
            unsafe { export_array_into(it, &raw mut to, &raw mut schema) }
                .map(|()| Opaque((to, schema)))
        });
    }),
    op("export_batch", |w| {
        let mut batch = batch().adopt(&w.leaf).unwrap();
        w.act(&mut batch, |it| export_batch(it).map(Opaque));
    }),
    op("FFI_ArrowArray::drop", |w| {
        let array = numbers().adopt(&w.leaf).unwrap();
        let exported = export_array(&array).unwrap();
        // The exported array keeps the memory.
        drop(array);
        w.act_quietly(&mut Charged(Some(exported), 4096), |it| drop(it.0.take()));
    }),
    op("import_array", |w| {
        w.act(&mut (), |()| {
            let (array, schema) = export_array(&numbers()).unwrap();
            // SAFETY: the structures were exported just now.
            unsafe { import_array(array, &schema, &w.leaf) }
        });
    }),
    op("import_trusted", |w| {
        w.act(&mut (), |()| {
            let (array, schema) = export_array(&numbers()).unwrap();
            // SAFETY: the structures were exported just now, of a valid array.
            unsafe { import_trusted(array, &schema, &w.leaf) }
        });
    }),
    op("import_batch", |w| {
        w.act(&mut (), |()| {
            let (array, schema) = export_batch(&batch()).unwrap();
            // SAFETY: the structures were exported just now.
            unsafe { import_batch(array, &schema, &w.leaf) }
        });
    }),
    op("import_array of what the tree is charged for", |w| {
        let mut array = numbers().adopt(&w.leaf).unwrap();
        w.act(&mut array, |it| {
            let (array, schema) = export_array(it).unwrap();
            // SAFETY: the structures were exported just now.
            let imported = unsafe { import_array(array, &schema, &w.right) };
            imported.map(|it: ArrayRef| Opaque(it))
        });
    }),
];

fn numbers() -> Int64Array {
    Int64Array::from(vec![7; 512])
}

fn batch() -> RecordBatch {
    let column: ArrayRef = std::sync::Arc::new(numbers());
    assert_eq!(column.len(), 512);
    RecordBatch::try_from_iter([("numbers", column)]).unwrap()
}
