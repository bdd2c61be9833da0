// Arrow C++ reads arrays that lie on the simulated device of arrow-memory-device, and sends them back, over the C Device Data
// Interface: single batches, and streams. `.ci/pyarrow.sh` compiles this against the headers in pyarrow's wheel, and links it
// with the output of `cargo build -p arrow-memory-device --example c_device`.
//
// The device is an Arrow C++ `Device` of type EXT_DEV without memory of its own: its buffers have no `data()`, and a copy to
// the CPU asks the library for the bytes.

#include <arrow/api.h>
#include <arrow/c/abi.h>
#include <arrow/c/bridge.h>
#include <arrow/device.h>

#include <iostream>

extern "C" {
struct Trees;
struct Held;
Trees* trees_new(size_t limit);
size_t trees_allocated(const Trees*, bool device);
bool trees_close(Trees*);
bool device_read(const Trees*, uint64_t from, uint8_t* to, size_t len);
Held* import_array(const Trees*, ArrowDeviceArray*, ArrowSchema*, char** message);
Held* import_stream(const Trees*, ArrowDeviceArrayStream*, char** message);
Held* copy_to(const Trees*, const Held*, bool device, char** message);
bool export_array(const Held*, size_t offset, size_t length, ArrowDeviceArray*, ArrowSchema*);
void export_arrays(const Held*, ArrowDeviceArrayStream*);
void release(Held*);
void free_message(char*);
}

namespace {

using arrow::Buffer;
using arrow::MemoryManager;
using arrow::RecordBatch;
using arrow::Result;
using arrow::Status;

class SimManager : public MemoryManager {
 public:
  SimManager(const std::shared_ptr<arrow::Device>& device, Trees* trees) : MemoryManager(device), trees_(trees) {}

  Result<std::shared_ptr<arrow::io::RandomAccessFile>> GetBufferReader(std::shared_ptr<Buffer>) override {
    return Status::NotImplemented("reader");
  }
  Result<std::shared_ptr<arrow::io::OutputStream>> GetBufferWriter(std::shared_ptr<Buffer>) override {
    return Status::NotImplemented("writer");
  }
  Result<std::unique_ptr<Buffer>> AllocateBuffer(int64_t) override { return Status::NotImplemented("allocate"); }

 protected:
  Result<std::shared_ptr<Buffer>> CopyBufferTo(const std::shared_ptr<Buffer>& source,
                                               const std::shared_ptr<MemoryManager>& to) override {
    if (!to->is_cpu()) return nullptr;
    ARROW_ASSIGN_OR_RAISE(auto copy, to->AllocateBuffer(source->size()));
    if (!device_read(trees_, source->address(), copy->mutable_data(), static_cast<size_t>(source->size()))) {
      return Status::IOError("the device does not read");
    }
    return std::shared_ptr<Buffer>(std::move(copy));
  }

 private:
  Trees* trees_;
};

class SimDevice : public arrow::Device {
 public:
  explicit SimDevice(Trees* trees) : Device(/*is_cpu=*/false), trees_(trees) {}

  const char* type_name() const override { return "simulated"; }
  std::string ToString() const override { return "simulated"; }
  bool Equals(const Device& other) const override { return this == &other; }
  int64_t device_id() const override { return 0; }
  arrow::DeviceAllocationType device_type() const override { return arrow::DeviceAllocationType::kEXT_DEV; }
  std::shared_ptr<MemoryManager> default_memory_manager() override {
    return std::make_shared<SimManager>(shared_from_this(), trees_);
  }

 private:
  Trees* trees_;
};

Status Check(bool holds, const char* what) { return holds ? Status::OK() : Status::Invalid(what); }

Result<Held*> Handle(Held* held, char* message) {
  if (held != nullptr) return held;
  std::string text = message;
  free_message(message);
  return Status::Invalid(text);
}

Result<std::shared_ptr<RecordBatch>> Sample(int64_t rows) {
  arrow::Int64Builder ids;
  arrow::StringBuilder texts;
  arrow::ListBuilder lists(arrow::default_memory_pool(), std::make_shared<arrow::Int32Builder>());
  auto& items = static_cast<arrow::Int32Builder&>(*lists.value_builder());
  for (int64_t row = 0; row < rows; ++row) {
    ARROW_RETURN_NOT_OK(row % 3 == 1 ? ids.AppendNull() : ids.Append(row));
    ARROW_RETURN_NOT_OK(texts.Append(std::string(static_cast<size_t>(row % 7), 'x')));
    ARROW_RETURN_NOT_OK(lists.Append());
    ARROW_RETURN_NOT_OK(items.Append(static_cast<int32_t>(row)));
  }
  ARROW_ASSIGN_OR_RAISE(auto id, ids.Finish());
  ARROW_ASSIGN_OR_RAISE(auto text, texts.Finish());
  ARROW_ASSIGN_OR_RAISE(auto list, lists.Finish());
  auto schema = arrow::schema({arrow::field("id", id->type()), arrow::field("text", text->type()),
                               arrow::field("list", list->type())});
  return RecordBatch::Make(schema, rows, {id, text, list});
}

// A batch on the device, as Arrow C++ sees it: no pointer leads to its bytes, and a copy has them.
Status CheckOnDevice(const RecordBatch& there, const RecordBatch& expected) {
  ARROW_RETURN_NOT_OK(Check(there.device_type() == arrow::DeviceAllocationType::kEXT_DEV, "the device's type"));
  for (const auto& column : there.columns()) {
    for (const auto& buffer : column->data()->buffers) {
      // Arrow C++ puts an empty buffer of the CPU where a buffer has no bytes.
      if (buffer && buffer->size() > 0) {
        ARROW_RETURN_NOT_OK(Check(!buffer->is_cpu(), "a buffer of the CPU"));
        ARROW_RETURN_NOT_OK(Check(buffer->data() == nullptr, "a pointer to a device"));
      }
    }
  }
  ARROW_ASSIGN_OR_RAISE(auto copy, there.CopyTo(arrow::default_cpu_memory_manager()));
  ARROW_RETURN_NOT_OK(copy->ValidateFull());
  return Check(copy->Equals(expected), "the values");
}

Status Batches(Trees* trees, const arrow::DeviceMemoryMapper& mapper) {
  ARROW_ASSIGN_OR_RAISE(auto batch, Sample(1000));
  ArrowDeviceArray array;
  ArrowSchema schema;
  char* message = nullptr;
  ARROW_RETURN_NOT_OK(arrow::ExportDeviceRecordBatch(*batch, nullptr, &array, &schema));
  ARROW_ASSIGN_OR_RAISE(Held * here, Handle(import_array(trees, &array, &schema, &message), message));
  ARROW_ASSIGN_OR_RAISE(Held * there, Handle(copy_to(trees, here, true, &message), message));
  release(here);
  ARROW_RETURN_NOT_OK(Check(trees_allocated(trees, false) == 0, "the source was released"));

  ARROW_RETURN_NOT_OK(Check(export_array(there, 0, 1000, &array, &schema), "export"));
  release(there);
  const size_t charged = trees_allocated(trees, true);
  ARROW_RETURN_NOT_OK(Check(charged > 16'000, "Arrow C++ keeps the charge"));
  ARROW_ASSIGN_OR_RAISE(auto imported, arrow::ImportDeviceRecordBatch(&array, &schema, mapper));
  ARROW_RETURN_NOT_OK(CheckOnDevice(*imported, *batch));

  // And back to the tree, in structures of Arrow C++: foreign memory on the same device.
  ARROW_RETURN_NOT_OK(arrow::ExportDeviceRecordBatch(*imported, nullptr, &array, &schema));
  ARROW_ASSIGN_OR_RAISE(Held * again, Handle(import_array(trees, &array, &schema, &message), message));
  ARROW_RETURN_NOT_OK(Check(trees_allocated(trees, true) > charged, "charged as foreign memory"));
  imported.reset();
  ARROW_RETURN_NOT_OK(Check(trees_allocated(trees, true) > charged, "Rust keeps what Arrow C++ kept"));
  ARROW_ASSIGN_OR_RAISE(Held * back, Handle(copy_to(trees, again, false, &message), message));
  release(again);
  ARROW_RETURN_NOT_OK(Check(trees_allocated(trees, true) == 0, "all was released"));
  ARROW_RETURN_NOT_OK(Check(export_array(back, 0, 1000, &array, &schema), "export"));
  release(back);
  ARROW_ASSIGN_OR_RAISE(auto returned, arrow::ImportDeviceRecordBatch(&array, &schema));
  return Check(returned->Equals(*batch), "the values at the end");
}

Status Streams(Trees* trees, const arrow::DeviceMemoryMapper& mapper) {
  arrow::RecordBatchVector batches;
  // Arrow C++ wants memory for one offset even for a batch without rows, for which an import keeps none on the device.
  for (int64_t rows : {3, 1, 500}) {
    ARROW_ASSIGN_OR_RAISE(auto batch, Sample(rows));
    batches.push_back(batch);
  }
  ARROW_ASSIGN_OR_RAISE(auto reader, arrow::RecordBatchReader::Make(batches));
  ArrowDeviceArrayStream stream;
  char* message = nullptr;
  ARROW_RETURN_NOT_OK(arrow::ExportDeviceRecordBatchReader(reader, &stream));
  ARROW_ASSIGN_OR_RAISE(Held * here, Handle(import_stream(trees, &stream, &message), message));
  ARROW_ASSIGN_OR_RAISE(Held * there, Handle(copy_to(trees, here, true, &message), message));
  release(here);
  export_arrays(there, &stream);
  release(there);
  ARROW_ASSIGN_OR_RAISE(auto imported, arrow::ImportDeviceRecordBatchReader(&stream, mapper));
  size_t count = 0;
  for (const auto& expected : batches) {
    ARROW_ASSIGN_OR_RAISE(auto batch, imported->Next());
    ARROW_RETURN_NOT_OK(Check(batch != nullptr, "a batch of the stream"));
    ARROW_RETURN_NOT_OK(CheckOnDevice(*batch, *expected));
    ++count;
  }
  ARROW_ASSIGN_OR_RAISE(auto end, imported->Next());
  return Check(end == nullptr && count == batches.size(), "the end of the stream");
}

Status Run() {
  Trees* trees = trees_new(1 << 30);
  auto device = std::make_shared<SimDevice>(trees);
  arrow::DeviceMemoryMapper mapper = [device](ArrowDeviceType type, int64_t id) -> Result<std::shared_ptr<MemoryManager>> {
    ARROW_RETURN_NOT_OK(Check(type == ARROW_DEVICE_EXT_DEV && id == 0, "a device of the stream"));
    return device->default_memory_manager();
  };
  ARROW_RETURN_NOT_OK(Batches(trees, mapper));
  ARROW_RETURN_NOT_OK(Streams(trees, mapper));
  ARROW_RETURN_NOT_OK(Check(trees_allocated(trees, true) == 0, "nothing is left on the device"));
  return Check(trees_close(trees), "nothing is outstanding");
}

}  // namespace

int main() {
  const Status status = Run();
  if (!status.ok()) {
    std::cerr << status.ToString() << std::endl;
    return 1;
  }
  std::cout << "Arrow C++ " << arrow::GetBuildInfo().version_string << " read batches and streams on the simulated device"
            << std::endl;
}
