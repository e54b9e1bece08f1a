//! Seats and queues of the priority levels. A level always gets its share; what it does not use and may lend, others borrow.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::rules::{Level, Matched, Queuing};
use crate::user::User;

/// Why a request was refused that had waited for as long as it may.
pub(super) const TIMED_OUT: &str = "time-out";

/// What became of a request that asked for a seat.
pub(super) enum Verdict {
    Seated(Seat),
    Waits(oneshot::Receiver<Seat>),
    Refused(&'static str),
}

/// A request that waits or sits, for those who look at it.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub matched: Arc<Matched>,
    pub user: Arc<User>,
    pub verb: &'static str,
    /// The rest of what it asks for is read out of it by those who look.
    pub path: String,
    /// Unix time.
    pub arrived_ms: i64,
}

/// A level as it is now.
#[derive(Debug, Default)]
pub(super) struct LevelDump {
    pub name: Arc<str>,
    /// Its object is gone.
    pub gone: bool,
    pub taken: u64,
    pub waiting: usize,
    pub served: u64,
    pub rejected: u64,
    pub timed_out: u64,
    pub cancelled: u64,
    pub queues: Vec<QueueDump>,
    /// Requests that did not have to wait.
    pub queueless: Vec<Arc<Asked>>,
}

/// A queue as it is now.
#[derive(Debug, Default)]
pub(super) struct QueueDump {
    pub waiting: Vec<Arc<Asked>>,
    pub running: Vec<Arc<Asked>>,
}

#[derive(Debug)]
struct Waiting {
    give: oneshot::Sender<Seat>,
    asked: Arc<Asked>,
}

/// Who sits, and the queue that it came from.
#[derive(Debug)]
struct Running {
    asked: Arc<Asked>,
    queue: Option<usize>,
}

/// All seats of a server.
#[derive(Debug)]
pub(super) struct Seats(Arc<Hall>);

#[derive(Debug)]
struct Hall {
    total: u64,
    room: Mutex<BTreeMap<Arc<str>, Row>>,
}

/// The seats of one level.
#[derive(Debug, Default)]
struct Row {
    nominal: u64,
    /// Never lent.
    reserved: u64,
    /// Never exceeded.
    limit: u64,
    queuing: Option<Queuing>,
    waiting: usize,
    queues: Vec<VecDeque<Waiting>>,
    running: BTreeMap<u64, Running>,
    /// The number of the seat that is taken next.
    number: u64,
    /// The queue that is served next.
    next: usize,
    served: u64,
    refused: BTreeMap<&'static str, u64>,
    /// Those who left their queues before they were served.
    left: u64,
    /// Its object is gone; the row goes with its last request.
    gone: bool,
}

/// One request's seat, given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    /// `None`: taken back before anybody sat.
    hall: Option<Arc<Hall>>,
    level: Arc<str>,
    number: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(hall) = self.hall.take() {
            hall.leave(&self.level, self.number);
        }
    }
}

/// What a level does now, for metrics.
#[derive(Debug)]
pub(crate) struct Figures {
    pub level: Arc<str>,
    pub nominal: u64,
    pub limit: u64,
    pub taken: u64,
    pub waiting: usize,
    pub served: u64,
    pub refused: Vec<(&'static str, u64)>,
}

type Room = BTreeMap<Arc<str>, Row>;

impl Seats {
    pub fn new(total: usize) -> Self {
        Seats(Arc::new(Hall { total: total as u64, room: Mutex::default() }))
    }

    fn room(&self) -> std::sync::MutexGuard<'_, Room> {
        self.0.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shares the seats out among levels.
    pub fn configure(&self, levels: &[Level]) {
        let limited = || levels.iter().filter(|level| !level.exempt);
        let shares: u64 = limited().map(|level| level.shares).sum::<u64>().max(1);
        let mut room = self.room();
        room.values_mut().for_each(|row| row.gone = true);
        for level in limited() {
            let row = room.entry(level.name.clone()).or_default();
            row.gone = false;
            row.nominal = (self.0.total * level.shares).div_ceil(shares);
            row.reserved = row.nominal - row.nominal * level.lendable / 100;
            row.limit =
                level.borrowing.map_or(self.0.total, |percent| row.nominal + row.nominal * percent / 100);
            row.limit = row.limit.min(self.0.total);
            row.queuing = level.queuing;
            row.fit_queues();
        }
        room.retain(|_, row| !row.gone || row.taken() > 0 || row.waiting > 0);
        self.0.seat_waiting(&mut room);
    }

    /// A seat, a place in a queue, or a reason why there is neither.
    pub fn ask(&self, level: &Arc<str>, flow: u64, asked: Arc<Asked>) -> Verdict {
        let mut room = self.room();
        let free = self.0.may_sit(&room, level);
        let Some(row) = room.get_mut(level) else { return Verdict::Refused("no-level") };
        if free && row.waiting == 0 {
            let number = row.sit(asked, None);
            return Verdict::Seated(Seat { hall: Some(self.0.clone()), level: level.clone(), number });
        }
        let Some(queuing) = row.queuing else { return Verdict::Refused("concurrency-limit") };
        let at = row.shortest_of_hand(queuing, flow);
        let before = row.queues[at].len();
        row.queues[at].retain(|waiting| !waiting.give.is_closed());
        row.left += (before - row.queues[at].len()) as u64;
        row.waiting = row.queues.iter().map(VecDeque::len).sum();
        if row.queues[at].len() >= queuing.length {
            return Verdict::Refused("queue-full");
        }
        let (give, take) = oneshot::channel();
        row.queues[at].push_back(Waiting { give, asked });
        row.waiting += 1;
        // Who gave up may have been all that stood before this one.
        self.0.seat_waiting(&mut room);
        Verdict::Waits(take)
    }

    /// Counts a refusal.
    pub fn refused(&self, level: &Arc<str>, why: &'static str) {
        if let Some(row) = self.room().get_mut(level) {
            *row.refused.entry(why).or_default() += 1;
        }
    }

    /// Everything as it is now.
    pub fn dump(&self) -> Vec<LevelDump> {
        self.room().iter().map(|(name, row)| row.dump(name)).collect()
    }

    pub fn figures(&self) -> Vec<Figures> {
        let figures = |(level, row): (&Arc<str>, &Row)| Figures {
            level: level.clone(),
            nominal: row.nominal,
            limit: row.limit,
            taken: row.taken(),
            waiting: row.waiting,
            served: row.served,
            refused: row.refused.iter().map(|(why, count)| (*why, *count)).collect(),
        };
        self.room().iter().map(figures).collect()
    }
}

impl Hall {
    /// Is there a seat for one more of the level: of its own, or lent by others that do not need theirs?
    fn may_sit(&self, room: &Room, level: &Arc<str>) -> bool {
        let Some(row) = room.get(level) else { return false };
        if row.taken() < row.nominal.min(row.limit) {
            return true;
        }
        let others = room.iter().filter(|(name, _)| *name != level);
        let kept: u64 = others.map(|(_, other)| other.taken().max(other.reserved)).sum();
        row.taken() < row.limit && row.taken() + kept < self.total
    }

    fn leave(self: &Arc<Self>, level: &Arc<str>, number: u64) {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(row) = room.get_mut(level) else { return };
        row.running.remove(&number);
        if row.gone && row.taken() == 0 && row.waiting == 0 {
            room.remove(level);
        }
        self.seat_waiting(&mut room);
    }

    /// Gives free seats to those who wait: level by level, in a level queue by queue.
    fn seat_waiting(self: &Arc<Self>, room: &mut Room) {
        if room.values().all(|row| row.waiting == 0) {
            return;
        }
        let levels: Vec<Arc<str>> = room.keys().cloned().collect();
        for level in levels {
            while room.get(&level).is_some_and(|row| row.waiting > 0) && self.may_sit(room, &level) {
                let Some(row) = room.get_mut(&level) else { break };
                let Some((queue, waiting)) = row.pop() else { break };
                if waiting.give.is_closed() {
                    row.left += 1;
                    continue;
                }
                let number = row.sit(waiting.asked, Some(queue));
                let seat = Seat { hall: Some(self.clone()), level: level.clone(), number };
                if let Err(mut unwanted) = waiting.give.send(seat) {
                    // Its drop would come back here under the lock.
                    unwanted.hall = None;
                    row.served -= 1;
                    row.running.remove(&number);
                }
            }
        }
    }
}

impl Row {
    fn fit_queues(&mut self) {
        let wanted = self.queuing.map_or(0, |queuing| queuing.queues);
        if self.waiting == 0 {
            self.queues.resize_with(wanted, VecDeque::new);
            self.next = 0;
        } else if self.queues.len() < wanted {
            self.queues.resize_with(wanted, VecDeque::new);
        }
    }

    /// Shuffle sharding: the flow's number deals a hand of queues, and the shortest of them is taken. Two flows rarely share all.
    fn shortest_of_hand(&self, queuing: Queuing, flow: u64) -> usize {
        let queues = self.queues.len().max(1);
        let (mut number, mut hand) = (flow, Vec::with_capacity(queuing.hand));
        for dealt in 0..queuing.hand.min(queues) {
            let left = (queues - dealt) as u64;
            let mut card = (number % left) as usize;
            number /= left;
            // The card counts only queues that are not dealt yet.
            let mut sorted = hand.clone();
            sorted.sort_unstable();
            for taken in sorted {
                if card >= taken {
                    card += 1;
                }
            }
            hand.push(card);
        }
        hand.into_iter().min_by_key(|at| self.queues[*at].len()).unwrap_or(0)
    }

    /// Seats in use.
    fn taken(&self) -> u64 {
        self.running.len() as u64
    }

    /// Gives a seat, and its number.
    fn sit(&mut self, asked: Arc<Asked>, queue: Option<usize>) -> u64 {
        self.served += 1;
        self.number += 1;
        self.running.insert(self.number, Running { asked, queue });
        self.number
    }

    fn dump(&self, name: &Arc<str>) -> LevelDump {
        let mut queues: Vec<QueueDump> = Vec::new();
        for queue in &self.queues {
            let waiting = queue.iter().map(|waiting| waiting.asked.clone()).collect();
            queues.push(QueueDump { waiting, running: Vec::new() });
        }
        let mut queueless = Vec::new();
        for Running { asked, queue } in self.running.values() {
            let queue = queue.and_then(|at| queues.get_mut(at)).map(|queue| &mut queue.running);
            queue.unwrap_or(&mut queueless).push(asked.clone());
        }
        let timed_out = self.refused.get(TIMED_OUT).copied().unwrap_or(0);
        LevelDump {
            name: name.clone(),
            gone: self.gone,
            taken: self.taken(),
            waiting: self.waiting,
            served: self.served,
            rejected: self.refused.values().sum::<u64>() - timed_out,
            timed_out,
            cancelled: self.left.saturating_sub(timed_out),
            queues,
            queueless,
        }
    }

    /// The first of the next queue that is not empty, and which queue it is.
    fn pop(&mut self) -> Option<(usize, Waiting)> {
        let queues = self.queues.len();
        for step in 0..queues {
            let at = (self.next + step) % queues;
            if let Some(waiting) = self.queues[at].pop_front() {
                self.next = (at + 1) % queues;
                self.waiting -= 1;
                return Some((at, waiting));
            }
        }
        self.waiting = 0;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::Rules;
    use super::*;

    fn level(name: &str, spec: &str) -> corten_api::Value {
        let text =
            format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"type":"Limited","limited":{spec}}}}}"#);
        corten_api::json::parse(&text.into()).unwrap()
    }

    fn nobody() -> Arc<Asked> {
        Arc::default()
    }

    fn seats(total: usize, levels: &[corten_api::Value]) -> Seats {
        let seats = Seats::new(total);
        seats.configure(Rules::new(&[], levels).levels());
        seats
    }

    const QUEUE: &str =
        r#""limitResponse":{"type":"Queue","queuing":{"queues":4,"handSize":2,"queueLengthLimit":2}}"#;
    const CATCH_ALL: &str = r#"{"nominalConcurrencyShares":0,"limitResponse":{"type":"Reject"}}"#;

    fn taken(seats: &Seats, level: &str) -> u64 {
        seats.figures().iter().find(|f| &*f.level == level).map_or(0, |f| f.taken)
    }

    #[test]
    fn a_level_queues_refuses_and_serves_fairly() {
        let a = level("a", &format!(r#"{{"nominalConcurrencyShares":1,{QUEUE}}}"#));
        let seats = seats(1, &[a, level("catch-all", CATCH_ALL)]);
        let name: Arc<str> = "a".into();
        let Verdict::Seated(first) = seats.ask(&name, 1, nobody()) else { panic!("the one seat") };
        let mut waiting = Vec::new();
        while let Verdict::Waits(place) = seats.ask(&name, 7, nobody()) {
            waiting.push(place);
        }
        assert_eq!(waiting.len(), 4, "two queues of two");
        let Verdict::Waits(mut other) = seats.ask(&name, 2, nobody()) else {
            panic!("another flow has other queues")
        };
        drop(first);
        let mut order = 0;
        while other.try_recv().is_err() {
            order += 1;
            let seated = waiting.iter_mut().find_map(|place| place.try_recv().ok());
            drop(seated.expect("somebody is served"));
        }
        assert!(order <= 2, "the small flow is not behind all of the large one: {order}");
    }

    #[test]
    fn seats_are_lent_but_what_is_reserved_is_not() {
        let all = r#"{"nominalConcurrencyShares":1,"lendablePercent":50,"limitResponse":{"type":"Reject"}}"#;
        let few =
            r#"{"nominalConcurrencyShares":1,"borrowingLimitPercent":20,"limitResponse":{"type":"Reject"}}"#;
        let seats = seats(20, &[level("a", all), level("b", few), level("catch-all", CATCH_ALL)]);
        let sit = |name: &str| {
            let name: Arc<str> = name.into();
            std::iter::from_fn(|| match seats.ask(&name, 0, nobody()) {
                Verdict::Seated(seat) => Some(seat),
                _ => None,
            })
            .collect::<Vec<_>>()
        };
        let b = sit("b");
        assert_eq!(b.len(), 12, "its ten and a fifth more, lent by a");
        assert_eq!(sit("a").len(), 10, "its own are a's at any time");
        drop(b);
        assert_eq!(sit("a").len(), 10, "b lends nothing");
        assert_eq!(taken(&seats, "a") + taken(&seats, "b"), 0);
    }

    #[test]
    fn who_gives_up_leaves_the_queue() {
        let a = level("a", &format!(r#"{{"nominalConcurrencyShares":1,{QUEUE}}}"#));
        let seats = seats(1, &[a, level("catch-all", CATCH_ALL)]);
        let name: Arc<str> = "a".into();
        let Verdict::Seated(first) = seats.ask(&name, 1, nobody()) else { panic!("the one seat") };
        let Verdict::Waits(gone) = seats.ask(&name, 1, nobody()) else { panic!("a place") };
        let Verdict::Waits(mut stays) = seats.ask(&name, 1, nobody()) else { panic!("a place") };
        drop(gone);
        drop(first);
        assert!(stays.try_recv().is_ok());
        assert_eq!(taken(&seats, "a"), 0, "the seat is given back with the answer");
    }
}
