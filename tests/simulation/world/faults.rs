//! What goes wrong.

use super::{Event, World, node_of};

impl World {
    pub(super) fn fault(&mut self) {
        if !self.faulty {
            return;
        }
        let delay = self.random.within(2000..60_000);
        self.after(delay, Event::Fault);
        match self.random.within(0..32) {
            0..12 => self.break_connection(),
            12..19 => self.crash_node(),
            19..24 => self.part(),
            24..27 => self.crash_compute(),
            27..29 => self.rename_node(),
            29 => self.jump(),
            _ => self.stall(),
        }
    }

    /// The spec names a safekeeper anew.
    fn rename_node(&mut self) {
        let names = &mut self.endpoints.endpoints;
        let index = self.random.within(0..names.len() as u64) as usize;
        let node = node_of(&names[index]);
        names[index] = format!("node-{node}.{}", self.random.within(0..3));
        self.tell_endpoints();
    }

    /// A clock leaps: much seems to be due.
    fn jump(&mut self) {
        let index = self.random.within(0..self.clocks.len() as u64) as usize;
        self.clocks[index] += self.random.within(1000..20_000_000);
        self.statistics.count("clock jumped");
        if let Some(compute) = &self.computes[index] {
            self.after(0, Event::Wake(index, compute.life));
        }
    }

    /// A machine stands still; what comes meanwhile waits.
    fn stall(&mut self) {
        let index = self.random.within(0..self.stalled.len() as u64) as usize;
        self.stalled[index] = self.now + self.random.within(1000..400_000);
        self.statistics.count("compute stood still");
    }

    fn break_connection(&mut self) {
        let open = self.network.ids(|c| c.compute_open);
        if let Some(id) = self.random.pick(&open) {
            self.statistics.count("connection broken");
            self.cut(id);
        }
    }

    /// Ends a connection without either side's will. What is on its way may arrive.
    fn cut(&mut self, id: u64) {
        let mut delays = [self.random.within(1..20_000), self.random.within(1..20_000)];
        if self.random.one_in(4) {
            // It arrives behind what comes on the next connection.
            let held = self.random.within(5000..300_000);
            self.network.hold(id, self.now + held);
            delays[1] += held;
        }
        self.after(delays[0], Event::BrokenAtCompute(id));
        self.after(delays[1], Event::BrokenAtNode(id));
    }

    fn crash_node(&mut self) {
        let node = self.random.within(0..self.nodes.len() as u64) as usize;
        if self.nodes[node].acceptor.is_none() {
            return;
        }
        self.trace(|| format!("safekeeper {} crashes", node + 1));
        self.statistics.count("node crashed");
        self.nodes[node].crash(&mut self.random, &mut self.statistics);
        // Its computes may learn it at once, or only by its silence.
        let silent = self.random.one_in(4);
        for id in self.network.ids(|c| c.ends.node == node) {
            self.network.close_node(id);
            if !silent {
                let delay = self.random.within(1..2000);
                self.after(delay, Event::BrokenAtCompute(id));
            }
        }
        let down = self.random.within(500..150_000);
        self.after(down, Event::StartNode(node));
    }

    fn crash_compute(&mut self) {
        let index = self.random.within(0..self.computes.len() as u64) as usize;
        if let Some(compute) = &self.computes[index] {
            let life = compute.life;
            self.trace(|| format!("proposer {life} crashes"));
            self.statistics.count("compute crashed");
            self.kill(index);
            let pause = self.random.within(100..100_000);
            self.after(pause, Event::StartCompute(index));
        }
    }

    /// Some computes and some safekeepers do not hear of each other for a while.
    fn part(&mut self) {
        self.statistics.count("network parted");
        let until = self.now + self.random.within(5000..250_000);
        for compute in 0..self.computes.len() {
            for node in 0..self.nodes.len() {
                if self.random.one_in(2) {
                    self.network.part(compute, node, until);
                }
            }
        }
    }
}
