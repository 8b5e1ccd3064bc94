//! Weights that are made ready while the part of the model before theirs runs: read from disk, and for a GPU expanded and
//! uploaded too.
//!
//! On a GPU one thread does this for the whole process, since cubecl (burn's GPU backends) gives each thread a stream of its own:
//! so uploads go their own way beside the computation, from pinned memory, and no memory pools of threads that are gone stay
//! behind. At most one part more than the one that runs is in memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

use burn::tensor::{Device, FloatDType, Tensor};

use super::Linear;
use crate::device::is_cpu;
use crate::weights::StoredTensor;

/// A part of a model whose weights may be streamed.
pub(crate) trait Prefetch: Sync {
    /// All its linear layers.
    fn linears(&self) -> Vec<&Linear>;

    /// Its weights that are not where they are computed with.
    fn stored(&self) -> Vec<&StoredTensor> {
        self.linears().into_iter().flat_map(Linear::stored).collect()
    }

    /// Lets go of weights that were made ready and not used.
    fn drop_ready(&self) {
        self.stored().iter().for_each(|stored| stored.drop_ready());
    }
}

impl Prefetch for Linear {
    fn linears(&self) -> Vec<&Linear> {
        vec![self]
    }
}

/// Runs `f`, and meanwhile makes the weights of `next` ready for computing with them on `device` in `dtype`.
pub(crate) fn reading_ahead<T>(
    next: Option<&(dyn Prefetch + '_)>,
    device: &Device,
    dtype: FloatDType,
    f: impl FnOnce() -> T,
) -> T {
    let stored = next.map(|next| next.stored()).unwrap_or_default();
    if is_cpu(device) || device.is_autodiff() {
        return match stored.iter().any(|stored| stored.is_streamed()) {
            true => std::thread::scope(|scope| {
                scope.spawn(|| stored.iter().for_each(|stored| stored.prefetch()));
                f()
            }),
            false => f(),
        };
    }
    if stored.is_empty() {
        return f();
    }
    let coming = upload(&stored, device, dtype);
    let result = f();
    let uploaded = coming.and_then(|coming| coming.recv().ok()).unwrap_or_default();
    for (stored, matrix) in stored.iter().zip(uploaded) {
        stored.keep_ready(matrix);
    }
    // `f` has only enqueued its work. Without waiting for it, the weights of many parts would be under way at once. An error
    // stays with the tensors, and shows where they are read.
    let _ = device.sync();
    result
}

/// Matrices to be made ready, and where to send them.
struct Job {
    stored: Vec<StoredTensor>,
    device: Device,
    dtype: FloatDType,
    answer: Sender<Vec<Tensor<2>>>,
}

/// Has matrices `[out, in]` uploaded. `None` if there is no thread for it; if it fails, nothing is received. Each is then uploaded
/// at its use.
fn upload(stored: &[&StoredTensor], device: &Device, dtype: FloatDType) -> Option<Receiver<Vec<Tensor<2>>>> {
    static THREAD: OnceLock<Option<Sender<Job>>> = OnceLock::new();
    let thread = THREAD.get_or_init(|| {
        let (jobs, todo) = channel::<Job>();
        let work = move || {
            for job in todo {
                // Backends panic where they cannot go on; whoever waits sees that nothing comes.
                let _ = catch_unwind(AssertUnwindSafe(|| job.run()));
            }
        };
        std::thread::Builder::new().name("upload".into()).spawn(work).ok().map(|_| jobs)
    });
    let (answer, coming) = channel();
    let stored = stored.iter().map(|&stored| stored.clone()).collect();
    thread.as_ref()?.send(Job { stored, device: device.clone(), dtype, answer }).ok()?;
    Some(coming)
}

impl Job {
    fn run(self) {
        // All are asked for before the first is waited for.
        self.stored.iter().for_each(StoredTensor::prefetch);
        let matrices =
            self.stored.iter().map(|stored| stored.to_tensor_staged::<2>(&self.device, self.dtype)).collect();
        // Pages may be let go of when the copies are done.
        let _ = self.device.sync();
        self.stored.iter().for_each(StoredTensor::release);
        // Nobody waits any more if the work was given up.
        let _ = self.answer.send(matrices);
    }
}
