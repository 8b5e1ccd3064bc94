//! The processor's cores in equal shares, for work that goes on side by side.
//!
//! Many of a training step's operations are too small for several cores, or run on one of them only. Two halves of a batch, each
//! on a core of its own, are done sooner than one after the other on both.

use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// Threads that share the cores.
#[derive(Debug)]
pub struct Shares {
    pools: Vec<ThreadPool>,
}

impl Shares {
    /// So many equal shares of the threads that rayon would use here, of one thread at least. A single share is all of them.
    ///
    /// # Errors
    ///
    /// The system starts no more threads.
    pub fn new(count: usize) -> Result<Self> {
        let count = if count < 2 { 0 } else { count };
        let threads = (rayon::current_num_threads() / count.max(1)).max(1);
        let pool = |_| ThreadPoolBuilder::new().num_threads(threads).build();
        let pools = (0..count).map(pool).collect::<std::result::Result<_, _>>();
        Ok(Self { pools: pools.map_err(|error| failed(&error.to_string()))? })
    }

    /// Calls `work` with 0, 1, … for each share, all at once; what it returns, in this order.
    ///
    /// # Errors
    ///
    /// What `work` returns, the first of them; a thread that fails.
    pub fn run<T, E>(
        &self,
        work: impl Fn(usize) -> std::result::Result<T, E> + Sync,
    ) -> std::result::Result<Vec<T>, E>
    where
        T: Send,
        E: Send + From<Error>,
    {
        if self.pools.is_empty() {
            return Ok(vec![work(0)?]);
        }
        thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = (self.pools.iter().enumerate())
                .map(|(i, pool)| scope.spawn(move || pool.install(|| work(i))))
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|result| result.unwrap_or_else(|_| Err(failed("its thread failed; see above").into())))
                .collect()
        })
    }
}

fn failed(reason: &str) -> Error {
    uno_core::Error::Device { name: "one of several".into(), reason: reason.into() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_work_at_once_in_order_and_with_threads_of_their_own() {
        assert_eq!(Shares::new(1).unwrap().run(Ok::<_, Error>).unwrap(), [0]);
        let barrier = std::sync::Barrier::new(3);
        let shares = Shares::new(3).unwrap();
        let run = shares.run(|i| {
            barrier.wait();
            Ok::<_, Error>((i, rayon::current_num_threads()))
        });
        let threads = (rayon::current_num_threads() / 3).max(1);
        assert_eq!(run.unwrap(), [(0, threads), (1, threads), (2, threads)]);
    }

    #[test]
    fn the_first_error_is_returned_and_a_panic_is_one() {
        let shares = Shares::new(2).unwrap();
        let refuse = |i: usize| Err::<(), _>(Error::request("share", i, "another one"));
        assert!(shares.run(refuse).unwrap_err().to_string().contains('0'));
        let error = shares
            .run(|i| -> Result<()> {
                if i == 1 { panic!("on purpose") } else { Ok(()) }
            })
            .unwrap_err();
        assert!(error.to_string().contains("its thread failed"), "{error}");
    }
}
