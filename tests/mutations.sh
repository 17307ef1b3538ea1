#!/usr/bin/env bash
# Breaks each promise once on purpose, and requires that the test that guards it fails.
#
#   tests/mutations.sh          what needs no server
#   tests/mutations.sh live     what needs servers (tests/servers/install.sh)
#   tests/mutations.sh all      both
#   tests/mutations.sh WORD     those whose promise, file or test contains the word, of both
#   tests/mutations.sh list     the table of tests/README.md
#   tests/mutations.sh check    only whether each text is there
#
# A mutation is one piece of text, which stands exactly once in its file, and what it is replaced by. It is put into a
# copy of the sources. The pure core is built alone there, which takes seconds. Each test must pass without the mutation.
# HEADCOUNT_MUTATIONS names where the copy and what is built from it are kept: target/mutations.
set -uo pipefail
cd "$(dirname "$0")/.."

readonly CHOICE=${1:-quick}
readonly LIMIT=${HEADCOUNT_MUTATION_TIMEOUT:-900}
readonly CARGO=${CARGO:-cargo}
mkdir -p "${HEADCOUNT_MUTATIONS:-target/mutations}"
PLACE=$(cd "${HEADCOUNT_MUTATIONS:-target/mutations}" && pwd)
readonly PLACE CORE=$PLACE/core WHOLE=$PLACE/whole
LOG=$(mktemp)
trap 'rm -f "$LOG"' EXIT

PROMISES=() FILES=() TESTS=() OLDS=() NEWS=()

# mutant PROMISE FILE TEST OLD NEW. TEST is BINARY:NAME, where the binary is one of the pure core (core-unit, core), of
# the library (lib), of the command (bin), of the house rules (house), or one that needs servers (live, update, cli...).
mutant() {
    PROMISES+=("$1") FILES+=("$2") TESTS+=("$3") OLDS+=("$4") NEWS+=("$5")
}

# --- No evidence, no cancel -------------------------------------------------------------------------------------------

mutant 'no evidence, no cancel: room that is seen is no lack' src/decide/room.rs \
    core:a_launch_with_room_at_every_look_is_whole_whatever_was_planned \
    '(Some(pool), _) if pool.free() == 0 =>' '(Some(pool), _) if pool.used > 0 =>'
mutant 'a launch is judged by room, never by its count alone' src/decide/launch.rs \
    core:no_launch_is_short_while_there_is_room_at_every_look \
    '(None, false) => Finding::Whole,' '(None, false) => Finding::Short(ShortReason::UnderLaunched),'
mutant 'several launches may add up to a count' src/decide/launch.rs \
    core-unit:a_sum_of_launches_explains_a_size_and_each_is_used_once \
    'self.parts_of(size).is_some()' 'self.parts_of(size).is_some_and(|parts| parts.len() < 2)'
mutant 'what has run is not awaited again' src/decide/verdict/judging.rs \
    core:what_has_run_is_not_awaited_again_when_the_pool_is_full_later \
    'if launch.is_whole() || (required > 0 && launch.size >= required) {' 'if false && launch.is_whole() {'
mutant 'absence counts only without interruption' src/decide/verdict.rs \
    core:a_pool_that_is_full_for_a_moment_now_and_then_condemns_no_serial_phase \
    'if !lacks {' 'if !lacks && self.lack_so_far.is_zero() {'
mutant 'a serial phase is given a tenth of its time' src/decide/verdict.rs \
    core:a_long_serial_phase_is_given_a_tenth_of_its_time \
    'launch_wait.max(self.active / 10)' 'launch_wait'
mutant 'a launch that may be repeated is sampled on' src/decide/verdict.rs \
    core:a_plan_whose_workers_are_all_there_does_not_grow \
    'planned.iter().all(|launch| launch.once)' '!planned.is_empty()'
mutant 'a launch that was seen stands for one of the plan' src/decide/matching.rs \
    core-unit:one_is_missed_when_all_that_was_seen_may_have_been_others \
    'matter(launch) && without(place)' 'matter(launch) && false && without(place)'
mutant 'what nobody foresees is in doubt where there was no room for it' src/decide/verdict/ending.rs \
    core:a_launch_that_may_come_again_or_that_nobody_foresees_is_in_doubt_where_there_was_no_room_for_it \
    'long && !foreseen' 'false && long && !foreseen'
mutant 'waiting for a lock is no absence' src/decide/verdict.rs \
    core:time_waiting_for_a_lock_does_not_count \
    '&& last.leader == LeaderState::Active' '&& last.leader != LeaderState::Gone'
mutant 'what may have had no worker is not on target' src/decide/attempt.rs \
    core:launches_that_may_have_had_no_worker_make_no_run_on_target_and_hide_no_shortage \
    'if unproven && !is_proven' 'if false && unproven && !is_proven'
mutant 'what was proven outweighs what was not' src/decide/attempt.rs \
    core:launches_that_may_have_had_no_worker_make_no_run_on_target_and_hide_no_shortage \
    'if unproven && !is_proven' 'if unproven'
mutant 'what one statement was accepted with counts for all' src/decide/script.rs \
    core:what_one_statement_of_several_was_accepted_with_counts_for_all \
    '.chain(self.least)' '.chain(None)'
mutant 'a plan that met no room at any look is suspect' src/decide/verdict/ending.rs \
    core:a_planned_launch_without_room_at_any_look_is_suspect_however_short_the_statement_was \
    'known if !self.saw_room && ' 'known if false && '
mutant 'room at some look clears a short statement' src/decide/verdict/ending.rs \
    core:a_planned_launch_without_room_at_any_look_is_suspect_however_short_the_statement_was \
    'known if !self.saw_room && ' 'known if '
mutant 'a long unknown statement may have starved at its launch' src/decide/verdict/ending.rs \
    core:a_long_statement_that_met_a_full_pool_and_never_had_a_worker_is_unproven_if_nobody_knows_its_launches \
    'long && !foreseen && self.demand.expects_workers' 'false && !foreseen && self.demand.expects_workers'
mutant 'the last attempt tells of a later launch below the target' src/decide/verdict/judging.rs \
    core:the_last_attempt_tells_of_a_later_launch_below_the_target_and_keeps_it \
    'if launch.size < self.demand.target =>' 'if launch.size < self.demand.required =>'
mutant 'a last attempt with room for more is not called below the target' src/decide/verdict/ending.rs \
    core:the_last_attempt_is_below_the_target_only_where_there_was_no_room_for_more \
    'Verdict::Enough if open' 'Verdict::Enough if false'
mutant 'a last attempt without room for more is below the target' src/decide/launch.rs \
    core:the_last_attempt_is_below_the_target_only_where_there_was_no_room_for_more \
    'self.lack_in_wide_bracket.is_none() && !self.unseen && !self.unsure' 'true'
mutant 'the slot of a worker that has gone may not be free yet' src/decide/room.rs \
    core:slots_that_may_still_be_held_are_no_room \
    'earlier.min(free)' 'free.max(earlier)'
mutant 'slots that others have taken since are not free' src/decide/room.rs \
    core:what_starved_is_never_called_on_target \
    'tick.others().saturating_sub(self.others)' '0'
mutant 'a launch that took all the slots there were proves nothing' src/decide/verdict/judging.rs \
    core:what_starved_is_never_called_on_target \
    'false => self.launches_unproven = true,' 'false => {}'
mutant 'a launch that explains another is used up when others follow' src/decide/verdict/judging.rs \
    core:a_launch_that_met_no_room_explains_no_other_one \
    'over.give_way(&mut self.pending);' ';'
mutant 'what an attempt was accepted with is not hidden by a whole launch' src/decide/verdict/judging.rs \
    core:what_the_last_attempt_was_accepted_with_is_not_hidden_by_a_whole_launch \
    'self.record_shortfall(short);' ';'
mutant 'what has run short is not missed afterwards' src/decide/verdict/judging.rs \
    core:the_last_attempt_tells_of_a_later_launch_below_the_target_and_keeps_it \
    'self.pending.use_up(needed);' ''
mutant 'a launch that nobody saw behind a full pool is unproven' src/decide/verdict/ending.rs \
    core:a_launch_without_a_worker_behind_one_that_left_no_room_is_told_however_small \
    'self.unmet && may_lack' 'false && may_lack'
mutant 'the last workers of a launch are none of the next' src/decide/verdict.rs \
    core:workers_that_are_leaving_are_none_of_the_launch_behind_them \
    'self.several && !launch.is_complete() && !launch.had_room()' 'false && !launch.is_complete() && !launch.had_room()'
mutant 'two launches that may be one are not taken for enough' src/decide/verdict/judging.rs \
    core:workers_that_are_leaving_are_none_of_the_launch_behind_them \
    'self.launches_unproven |= self.had(launch) < target;' ''
mutant 'a statement that ended early is not hidden by one that had enough' src/decide/script.rs \
    core-unit:a_statement_that_ended_with_too_few_is_not_hidden_by_one_that_had_enough \
    '.filter(|_| !self.ended_early())' ''
mutant 'where nobody sees the room, a missing worker is not called early' src/decide/verdict/ending.rs \
    core:where_nobody_sees_the_room_a_statement_without_enough_workers_is_unproven_not_early \
    '!self.saw_pool && may_have' 'false && may_have'
mutant 'what calls functions is looked at' src/decide/script.rs \
    core-unit:one_that_calls_what_may_have_workers_is_not_bounded_by_its_plan \
    'statement.most.filter(|_| !statement.calls)' 'statement.most'
mutant 'what can have no workers proves nothing' src/decide/script.rs \
    core-unit:what_can_have_no_workers_proves_nothing_of_the_others \
    '.filter(|_| window.target() > 0)' '.filter(|_| true)'
mutant 'workers that left before all were there are achieved' src/decide/verdict.rs \
    core:workers_that_left_before_all_were_there_count_in_what_was_achieved \
    'self.reached = self.reached.max(required);' ''
mutant 'room that was not there before is believed when it stays' src/decide/admission.rs \
    core-unit:room_that_was_not_there_before_is_believed_when_it_stays \
    'false if is_lasting || waited' 'false if true || waited'
mutant 'a rung is told by what was set' src/decide/ceiling.rs \
    core-unit:each_rung_is_told_by_what_was_set \
    'if self.workers > self.given {' 'if self.workers >= self.given {'
mutant 'what is proposed leaves processes' src/decide/ceiling.rs \
    core-unit:what_is_proposed_keeps_the_slots_free_and_leaves_processes \
    'let most = self.processes.saturating_sub(leave);' 'let most = self.processes;'
mutant 'a blind monitor verifies nothing' src/decide/verdict.rs \
    core:a_statement_that_ends_while_the_monitor_is_blind_is_unverified \
    'if self.blind { Verdict::Unverified }' 'if self.blind { Verdict::FinishedEarly }'
mutant 'a launch in the dark is not condemned' src/decide/verdict.rs \
    core:a_launch_that_the_monitor_was_blind_to_is_not_condemned \
    'launch.doubt();' 'let _ = launch;'
mutant 'a pool that cannot be seen is never taken for an empty one' src/decide/admission.rs \
    core-unit:an_unseen_pool_is_not_waited_for \
    'return Some(Admitted::Unseen)' 'return Some(Admitted::Room)'

# --- A bar that was reached is never rejected -------------------------------------------------------------------------

mutant 'a bar that is reached is never rejected' src/decide/verdict.rs \
    core:a_bar_that_is_reached_is_never_rejected \
    'if self.verdict.is_none() && self.has_enough(&tick, room) {' \
    'if self.verdict.is_none() && short.is_none() && room.lack().is_none() && self.has_enough(&tick, room) {'
mutant 'workers that left again count in their launch' src/decide/verdict.rs \
    core:workers_that_left_again_count_in_the_size_of_their_launch \
    'if self.at_once(tick) < required && launch < required {' 'if self.at_once(tick) < required {'
mutant 'enough that rests on launches alive together is marked' src/decide/verdict.rs \
    core:launches_alive_together_are_enough_and_marked_where_one_may_lack_a_worker \
    'launch < required && room.lack().is_some() && tick.workers < most' 'false && tick.workers < most'

# --- The end never lies -----------------------------------------------------------------------------------------------

mutant 'a proven shortage is caught: no room' src/decide/launch.rs \
    core:a_launch_in_a_pool_without_a_free_slot_is_short_two_looks_later \
    'self.lack_since_growth.filter(|_| !self.is_doubted()) {' 'self.lack_since_growth.filter(|_| self.is_doubted()) {'
mutant 'a server without processes is told from a full pool' src/decide/room.rs \
    core:a_server_without_a_process_left_is_told_from_a_full_pool \
    'processes.free() == 0 =>' 'processes.free() == u32::MAX =>'
mutant 'a later launch that is short is not hidden' src/decide/verdict.rs \
    core:a_later_launch_that_is_short_is_told_and_changes_no_verdict \
    'Some(News::LaterLaunch(short))' 'None'
mutant 'achieved is the smallest share of a short launch' src/decide/verdict.rs \
    core:a_later_launch_that_is_short_is_told_and_changes_no_verdict \
    'self.shortfall.map_or(self.reached(), |short| short.of_target(self.demand.target))' 'self.reached()'
mutant 'what was proven short and finished is finished_short' src/decide/attempt.rs \
    core:a_result_that_was_proven_short_is_kept_and_says_so \
    'if short || matches!(verdict, Verdict::Short(_)) {' 'if false {'
mutant 'a lowered target is never on target' src/decide/attempt.rs \
    core:what_a_lowered_target_allows_is_never_on_target \
    'if self.lowered { Outcome::Lowered }' 'if self.lowered { Outcome::OnTarget }'
mutant 'too few workers is an outcome, no error' src/decide/attempt.rs \
    core:best_one_after_five_attempts_fails \
    'return Next::BelowMinimum;' 'return Next::Fail;'
mutant 'the greatest statement of a script is always judged' src/decide/script.rs \
    core-unit:one_that_cannot_have_the_minimum_is_not_judged_unless_it_is_the_greatest \
    'if can_have(minimum) < minimum && self.greatest != Some(place) ' 'if can_have(minimum) < minimum '
mutant 'each statement needs what its plan can have, no more' src/decide/script.rs \
    core-unit:each_statement_needs_what_its_plan_can_have \
    'required: can_have(required), target' 'required, target'
mutant 'counters are evidence only where nobody else ran anything' src/decide/counters.rs \
    core-unit:a_difference_is_ours_only_where_nobody_else_ran_anything \
    'self.busy == 0 && before.busy == 0 && ' ''
mutant 'idle sessions that ran something are not nobody' src/decide/counters.rs \
    core-unit:sessions_that_are_idle_all_the_time_are_nobody \
    ' && self.changed < before.at' ''
mutant 'nor where somebody came and went' src/decide/counters.rs \
    core-unit:a_session_that_came_and_went_between_may_be_whom_workers_were_refused \
    '&& self.sessions == before.sessions' ''
mutant 'what a kept statement lacked is told in the end' src/run/attempt.rs \
    live:what_a_kept_statement_lacked_is_told_though_a_later_one_was_tried_again \
    'let Resume { from: at, evidence, .. } = course.resume.clone();' 'let Resume { from: at, .. } = course.resume.clone(); let evidence = Evidence::default();'

# --- Slots of the pool ------------------------------------------------------------------------------------------------

mutant 'workers of outsiders occupy the pool' src/decide/reservation.rs \
    core-unit:outsiders_are_subtracted \
    '.saturating_sub(self.outsiders.unwrap_or(0))' ''
mutant 'a pool smaller than the minimum is never taken' src/decide/reservation.rs \
    core-unit:a_pool_that_shrinks_below_the_minimum_is_waited_for_and_never_taken \
    'self.demand().min(size).max(self.minimum)' 'self.demand().min(size)'
mutant 'slots that do not suffice are divided among the Gathers' src/decide/reservation.rs \
    core:the_gathers_of_a_job_share_what_it_was_granted \
    '(!fits).then(|| taken / self.gathers.max(1))' '(!fits).then_some(taken)'
mutant 'who has priority goes first' src/decide/reservation.rs \
    core-unit:who_has_priority_goes_first \
    'if slots.priority_waits && !self.priority {' 'if slots.priority_waits && self.priority {'

# --- Nothing twice, nothing lost --------------------------------------------------------------------------------------

mutant 'a data error is the fault of its key, not of the run' src/decide/update/fault_scope.rs \
    core-unit:data_and_constraints_are_the_keys_fault_and \
    '"22" | "23" |' '"22" |'
mutant 'a later line of a key finds what the first has left' src/decide/update/gather.rs \
    core-unit:a_second_line_of_a_key_finds_what_the_first_left \
    'Class::Updated => Class::Already,' 'Class::Updated => Class::Updated,'
mutant 'a line that contradicts the first is refused' src/decide/update/gather.rs \
    core-unit:a_line_that_contradicts_the_first_is_refused \
    '_ if self.contradicts => Class::Failed,' '_ if self.contradicts => Class::Already,'
mutant 'nothing done is told from done' src/decide/update/ending.rs \
    core-unit:nothing_done_has_a_word_of_its_own_and_counts_as_said \
    '} else if missing == keys {' '} else if missing > keys {'
mutant 'a lost session is known by its code' src/decide/failure.rs \
    core-unit:each_documented_sqlstate_has_its_class \
    '_ if code.starts_with("08") => FailureClass::NewSession,' '_ if code.starts_with("08") => FailureClass::Never,'

# --- What is told is what is there ------------------------------------------------------------------------------------

readonly EFFECTS=core:what_is_told_of_a_key_is_what_is_there_and_nothing_is_done_twice

mutant 'an unknown fate is not taken for aborted' src/decide/update/chunk_state.rs \
    "$EFFECTS" \
    '(Status::InProgress, _) | (Status::Unknown, Replay::Unsafe) => self.over(Next::Unresolved),' \
    '(Status::Unknown, Replay::Unsafe) => self.retry(keys, true, draw),
            (Status::InProgress, _) => self.over(Next::Unresolved),'
mutant 'a lost answer to COMMIT is asked about' src/decide/update/chunk_state.rs \
    "$EFFECTS" \
    'State::Committing { wrote: true, lasting } if lost => {' \
    'State::Committing { wrote: true, lasting } if lost && self.attempt > self.budget => {'
mutant 'what is in progress is waited for, never done beside it' src/decide/update/chunk_state.rs \
    "$EFFECTS" \
    '(Status::Aborted, _) => self.retry(keys, true, draw),' \
    '(Status::Aborted | Status::InProgress, _) => self.retry(keys, true, draw),'
mutant 'a commit that did not wait counts after its flush' src/decide/update/chunk_state.rs \
    "$EFFECTS" \
    'State::Committing { wrote, lasting } if !lasting || (wrote && !waited) => self.hold(lasting),' \
    'State::Committing { wrote, lasting } if lasting && wrote && !waited => self.hold(lasting),'
mutant 'what was read counts after the flush, too' src/decide/update/chunk_state.rs \
    "$EFFECTS" \
    'self.state = State::Committing { wrote, lasting };' \
    'self.state = State::Committing { wrote, lasting: lasting || !wrote };'
mutant 'a cancelled wait for the standby is no commit that lasts' src/decide/update/chunk_state.rs \
    "$EFFECTS" \
    'if !lasting || (wrote && !waited) =>' \
    'if !lasting || (wrote && !waited && self.budget == 0) =>'
mutant 'a failover makes doubts' src/decide/update/survival.rs \
    "$EFFECTS" \
    '(Some(1), end) if now.streamed => end,' \
    '(Some(_), _) if now.streamed => now.at,'
mutant 'a crash takes back what it has cut off' src/decide/update/survival.rs \
    "$EFFECTS" \
    'Some(end) if end >= written => Survival::Told,' \
    'Some(_) if now.at >= Some(written) => Survival::Told,'
mutant 'an id that is given out again is not believed' src/decide/update/survival.rs \
    "$EFFECTS" \
    '(Survival::Told, Status::Committed | Status::InProgress) => Status::Unknown,' \
    '(Survival::Told, Status::InProgress) => Status::Unknown,'
mutant 'a key that may be done, and cannot be read, has not failed' src/decide/update/chunk_state.rs \
    "$EFFECTS" \
    'self.over(if self.unsure { Next::Unresolved } else { Next::GiveUp })' \
    'self.over(Next::GiveUp)'

mutant 'an unknown fate is not taken for aborted, whoever says so' src/decide/update/resolver.rs \
    "$EFFECTS" \
    'Some(life) if life.is_same(now) => says,' \
    'Some(life) if life.is_same(now) => if says == Status::Unknown { Status::Aborted } else { says },'
mutant 'no COMMIT is sent before the id of its transaction is known' src/decide/update/pipeline.rs \
    "$EFFECTS" \
    '            && matches!(last.commit, Commit::NotSent)
            && last.has_id()' \
    '            && matches!(last.commit, Commit::NotSent)'
mutant 'no work is sent outside of its transaction' src/decide/update/worker/moves.rs \
    core:a_quiet_history_does_all_of_it \
    'if is_ahead { Opening::Whole } else { Opening::Begin }' \
    'if is_ahead { Opening::Whole } else { Opening::Inside }'
mutant 'work that failed was not committed, whatever COMMIT says' src/decide/update/pipeline.rs \
    "$EFFECTS" \
    '(Some(Err(failure)), _) | (_, Some(Err(failure))) => Some(failure.clone()),' \
    '(Some(Err(failure)), _) | (_, Some(Err(failure))) if !matches!(self.commit, Commit::Answered(Ok(_))) => Some(failure.clone()),'
mutant 'a COMMIT that waits is never cancelled' src/decide/update/worker/moves.rs \
    "$EFFECTS" \
    '|| self.pipeline.is_committing_for_long();' '|| self.is_over;'
mutant 'a session is replaced when all that was sent on it is answered for' src/decide/update/link.rs \
    "$EFFECTS" \
    'State::Leaving(_) if self.is_waiting() => Need::Wait,' \
    'State::Leaving(_) if self.is_waiting() && self.is_cancelled => Need::Wait,'
mutant 'what was not flushed is asked after in another life' src/decide/update/held.rs \
    "$EFFECTS" \
    'if self.chunks.first().is_none_or(|oldest| oldest.is_of(life)) {' \
    'if self.chunks.first().is_none_or(|oldest| oldest.is_of(life) || self.keys > 0) {'
mutant 'what was counted is done again where it is gone' src/decide/update/worker/fates.rs \
    "$EFFECTS" \
    'Status::Committed => turn.shared.past.keep(' 'Status::Committed | Status::Aborted => turn.shared.past.keep('
mutant 'nobody claims while another worker asks what became of what was counted' src/decide/update/worker/claiming.rs \
    core:nobody_claims_while_another_worker_asks_what_became_of_what_was_counted \
    'past.is_settled() {
            // Another' 'past.is_settled() && false {
            // Another'
mutant 'rows that are had before a commit elsewhere is counted are let go' src/decide/update/worker/claiming.rs \
    core:rows_that_are_had_before_a_commit_elsewhere_is_counted_are_let_go \
    'past.is_settled() {
            self.must' 'past.is_settled() && false {
            self.must'
mutant 'rows that were claimed on a session that is lost are not worked on' src/decide/update/worker/claiming.rs \
    "$EFFECTS" \
    'let rows = if self.link.is_up() { rows } else' 'let rows = if rows.is_ok() { rows } else'
mutant 'what was lost with its work is not taken for changed' src/decide/update/chunk.rs \
    "$EFFECTS" \
    'if self.attempt.is_presumed {' 'if self.attempt.is_presumed && self.items.is_empty() {'

# --- The library prints nothing ---------------------------------------------------------------------------------------

mutant 'the library prints nothing' src/decide/backoff.rs \
    core-house:the_library_prints_nothing \
    'use std::time::Duration;' 'use std::time::Duration; /// Says so.
pub fn say() { println!("said"); }'

# --- The library and the command, without a server --------------------------------------------------------------------

mutant 'no row of an input is lost: a quote that is never closed' src/run/update/keys/records.rs \
    lib:what_is_not_well_formed_is_named_with_line_and_field \
    'Ok(false) => return Err(Fault { line: opened, field, kind: FaultKind::OpenQuote }),' 'Ok(false) => return Ok(()),'
mutant 'no row of an input is lost: a row that does not fit' src/run/update/keys/lines.rs \
    lib:a_row_that_does_not_fit_is_named_and_so_is_every_kind_of_header_that_does_not \
    'if fields == width {' 'if fields >= width {'
mutant 'a contradiction is found chunks apart' src/run/update/keys/repeats.rs \
    lib:a_key_that_comes_again_with_other_values_contradicts_the_first \
    'return *first != values;' 'return false && *first != values;'
mutant 'what is left is right, or null' src/run/update/item_source.rs \
    lib:what_is_left_is_counted_or_nobody_knows \
    '(flow.end == Some(End::Whole)).then_some(left)' 'flow.end.is_some().then_some(left)'
mutant 'no piece of a password is said: the URL' src/pg/dsn.rs \
    lib:what_cannot_be_read_is_refused_without_repeating_it \
    "if names.iter().chain(&ports).any(|part| part.contains('@')) || database.contains('@') {" \
    "if database.contains('@') {"
mutant 'no piece of a password is said: keys' src/pg/dsn.rs \
    lib:a_key_is_named_where_no_password_can_reach \
    'let named = after.find(&format!("{key}="));' 'let named = text.find(key.as_str()).map(|_| 0);'
mutant 'nothing of a rejected attempt stays: it is cleaned up' src/run/attempt.rs \
    lib:a_short_attempt_is_cancelled_drained_cleaned_up_and_tried_again \
    'let Some(cleaned) = executor.cleanup().await else { return Ok(()) };' \
    'if attempt > 0 { return Ok(()); } let Some(cleaned) = executor.cleanup().await else { return Ok(()) };'
mutant 'a query whose commit is unknown is in doubt, never repeated' src/run/attempt.rs \
    lib:a_commit_whose_fate_is_not_known_is_an_error_and_is_never_repeated \
    'Resolution::Reread | Resolution::Unresolved => Err(Error::in_doubt(xid, cause)),' \
    'Resolution::Reread | Resolution::Unresolved => Ok(Err(cause)),'
mutant 'finished_short has an exit code of its own' cli/src/exit.rs \
    bin:too_few_workers_have_codes_of_their_own \
    'Outcome::FinishedShort => FINISHED_SHORT,' 'Outcome::FinishedShort => DONE,'

# --- With servers -----------------------------------------------------------------------------------------------------

mutant 'a launch that may have had no worker is not called on target' src/decide/verdict/ending.rs \
    live:launches_that_come_again_and_may_have_had_no_worker_are_not_called_on_target \
    'let long = self.longest_lack >= settle.max(self.active / 10);' 'let long = false && self.longest_lack >= settle.max(self.active / 10);'
mutant 'a statement of a client that died behind a proxy is stopped' src/run/session_script.rs \
    fleet:the_statement_of_a_job_that_was_killed_behind_a_proxy_is_stopped \
    'if self.pooled {' 'if false {'
mutant 'a key with many rows costs no square' src/pg/update/statement.rs \
    update:a_key_with_many_rows_fails_in_a_time_that_grows_with_them_and_not_with_their_square \
    'LEFT JOIN (SELECT DISTINCT n FROM changed) AS c' 'LEFT JOIN changed AS c'
mutant 'a cursor is not condemned for the workers that it cannot have' src/pg/plan/survey.rs \
    live:a_cursor_never_has_workers_and_is_not_condemned_for_that \
    'Kind::Opaque(_) if text.reads_a_cursor() => {' 'Kind::Opaque(_) if false => {'
mutant 'what a type hides is looked for: by its name' src/pg/plan/hidden.rs \
    live:what_runs_queries_behind_a_table_or_a_type_forbids_a_refusal \
    "t.oid >= 16384 AND t.typtype <> 'c' AND t.typname" "t.oid < 0 AND t.typtype <> 'c' AND t.typname"
mutant 'what a type hides is looked for: by a column' src/pg/plan/hidden.rs \
    live:what_runs_queries_behind_a_table_or_a_type_forbids_a_refusal \
    'AND NOT a.attisdropped AND a.atttypid >= 16384)' 'AND NOT a.attisdropped AND a.atttypid < 0)'
mutant 'what a cast hides is looked for' src/pg/plan/hidden.rs \
    live:what_runs_queries_behind_a_table_or_a_type_forbids_a_refusal \
    'SELECT EXISTS (SELECT FROM pg_catalog.pg_cast c WHERE c.castfunc >= 16384)' 'SELECT false'
mutant 'what somebody wrote is looked into' src/pg/plan/routines.rs \
    live:what_runs_queries_behind_a_table_or_a_type_forbids_a_refusal \
    '|| called.iter().any(|routine| routine.oid >= FIRST_OWN)' ''
mutant 'a script goes back to its own savepoints' src/run/attempt.rs \
    live:a_script_goes_back_to_its_own_savepoints \
    'executor.keeps_steps() && executor.outlives(at)' 'executor.keeps_steps()'
mutant 'a commit that may lack its standby is told' src/run/attempt.rs \
    live:a_commit_whose_wait_for_a_standby_was_cut_short_is_told_as_that \
    'Resolution::Committed if executor.waits_for_standbys()' 'Resolution::Committed if false'
mutant 'a session outside of a transaction is given back as it was' src/run/session_script.rs \
    fleet:a_backend_that_is_handed_on_as_it_is_keeps_no_setting_of_a_statement_outside_a_transaction \
    '(self.raise.is_some() || self.beyond > 0).then_some("max_parallel_workers");' 'None;'
mutant 'slots are held no longer than is allowed' src/decide/gathering.rs \
    core:the_pool_is_never_exceeded_while_slots_are_gathered_and_they_are_not_held_for_longer_than_is_allowed \
    'if at.saturating_sub(since) >= self.bounds.at_most {' 'if at.saturating_sub(since) >= self.bounds.at_most * 2 {'
mutant 'slots that are left to others are not held' src/decide/gathering.rs \
    core:the_pool_is_never_exceeded_while_slots_are_gathered_and_they_are_not_held_for_longer_than_is_allowed \
    'slots.saturating_sub(self.bounds.leave_slots)' 'slots'
mutant 'single slots add up' src/decide/gathering.rs \
    core:single_slots_that_are_free_for_moments_add_up \
    'let missing = need.saturating_sub(held + trying);' 'let missing = if need > look.pool.map_or(0, Pool::free) { 0 } else { need };'
mutant 'gathering begins after a while without room' src/decide/gathering.rs \
    core-unit:it_begins_after_a_while_without_room_and_takes_what_becomes_free \
    'Phase::Waiting if is_lacking &&' 'Phase::Waiting if false &&'
mutant 'a guarantee takes the highest way that holds' src/decide/guarantee.rs \
    core-unit:what_others_leave_to_the_role_is_the_surest \
    'if kept_free.is_some_and(|free| free >= need) {' 'if false && kept_free.is_some_and(|free| free >= need) {'
mutant 'nothing is guaranteed where no way holds' src/decide/guarantee.rs \
    core-unit:where_nothing_holds_each_way_says_why \
    'true if slots < need =>' 'true if false && slots < need =>'
mutant 'a statement that starts while slots are held has a ceiling higher by as many' src/run/session_script.rs \
    live:slots_that_others_leave_for_moments_are_gathered_for_the_first_attempt \
    'if self.beyond > 0 {' 'if self.beyond > 1_000 {'
mutant 'slots are given back when the workers are seen' src/run/owned_session.rs \
    live:slots_that_others_leave_for_moments_are_gathered_for_the_first_attempt \
    'self.guard.held_slots.give_way();' ''
mutant 'one execution gathers at a time' src/run/gatherer.rs \
    live:one_execution_gathers_at_a_time \
    'let has = turn.begin_gathering().await?;' 'let has = turn.begin_gathering().await? || true;'
mutant 'what is guaranteed does not start before it is held' src/run/execution.rs \
    live:what_is_guaranteed_does_not_start_before_it_is_held \
    'if free.is_none() && settings.guarantee {' 'if false && settings.guarantee {'
mutant 'the last connections are left to others' src/run/gatherer.rs \
    live:the_last_connections_are_left_to_others \
    'if has && spare < wanted + LEFT_CONNECTIONS {' 'if false && has && spare < wanted + LEFT_CONNECTIONS {'
mutant 'nothing is held after the end' src/run/gatherer.rs \
    live:nothing_is_held_after_a_deadline_or_a_stop \
    'stop(&inner, held.iter().map(|held| held.placeholder.identity).collect()).await;
            drop((held, turn));' 'std::mem::forget((held, turn));'
mutant 'a ceiling never exceeds what was set for the role' src/pg/ceiling.rs \
    live:a_ceiling_never_exceeds_what_was_set_for_the_role_unless_that_is_asked_for \
    'let apart = if settings.above_role {' 'let apart = if settings.leave < 1000 {'
mutant 'a ceiling leaves processes to others' src/pg/ceiling.rs \
    live:a_raised_ceiling_leaves_processes_to_others \
    'let leave = settings.leave;' 'let leave = settings.leave.min(0);'
mutant 'a cancel names the statement by its query_start' src/pg/cancel.rs \
    live:a_request_to_cancel_another_clients_statement_never_hits_its_next_one \
    '  AND ($3::bigint IS NULL OR pg_catalog.round(extract(epoch FROM query_start) * 1000000)::bigint = $3)"' \
    '  AND ($3::bigint IS NULL OR query_start IS NOT NULL)"'
mutant 'a script goes on where it was: what ran stays' src/run/session_guard.rs \
    live:a_starved_statement_of_a_script_is_tried_again_alone \
    '"ROLLBACK TO SAVEPOINT headcount_statement; RELEASE SAVEPOINT headcount_statement"' '"ROLLBACK"'

mutant 'a signal cancels what waits for a row, at once' src/run/update/connection.rs \
    update:a_chunk_that_waits_for_a_row_is_rolled_back_at_once_when_a_signal_comes \
    'if !matches!(timeout(CANCEL, endpoint.cancel_by(token)).await, Ok(Ok(()))) {' \
    'if endpoint.user().is_empty() && CANCEL.is_zero() {'
mutant 'a transaction that took too long has lost its session' src/decide/failure.rs \
    update:a_transaction_timeout_is_a_lost_session_and_a_locked_row_costs_its_key_and_no_other \
    '"57P05" | "25P03" | "25P04" =>' '"57P05" | "25P03" =>'
mutant 'a code that is nobody'\''s fails its key, and no other' src/decide/update/fault_scope.rs \
    update:a_key_that_a_trigger_refuses_fails_alone_whatever_code_it_raises \
    '_ => FaultScope::Unclear,' '_ => FaultScope::Run,'
mutant 'a failure that stays fails its key, and no other' src/decide/update/chunk_state.rs \
    update:a_key_that_a_trigger_refuses_fails_alone_whatever_code_it_raises \
    'if keys > 1 {' 'if keys > 100 {'
mutant 'triggers below the table are seen' src/pg/update/catalog.rs \
    update:what_a_trigger_below_the_table_makes_unrepeatable_is_not_done_twice \
    't.tgrelid IN (SELECT oid FROM family)' 't.tgrelid = $1::pg_catalog.text::pg_catalog.regclass'
mutant 'triggers that came meanwhile are seen' src/run/update/connection.rs \
    update:what_a_trigger_that_came_meanwhile_makes_unrepeatable_is_not_done_twice_after_a_crash \
    'Session { life: Arc::new(life), replay, may_mark' \
    'Session { life: Arc::new(life), replay: Replay::Safe, may_mark'
mutant 'no trigger that runs in COMMIT weakens it' src/run/update/connection.rs \
    update:a_trigger_that_has_its_transaction_not_wait_for_the_disk_is_overruled \
    'if !self.is_weak || !lasting {' 'if true {'
mutant 'a cancelled wait is heard whatever the client is to hear' src/pg/heard.rs \
    update:chunks_whose_wait_for_the_standby_is_always_cancelled_are_not_told_as_updated \
    '"SET LOCAL client_min_messages TO warning"' '"SET LOCAL client_min_messages TO error"'
mutant 'an answer lost on an open line is noticed by an update' src/run/update/connection.rs \
    update:a_commit_whose_answer_is_lost_on_a_line_that_stays_open_counts \
    'if silent >= UNANSWERED {' 'if silent > UNANSWERED * 90 {'
mutant 'an answer lost on an open line is noticed by a guarded statement' src/run/lost_answer.rs \
    live:a_statement_whose_answer_was_lost_on_a_line_that_stays_open_is_tried_again \
    'since.elapsed() >= UNANSWERED' 'since.elapsed() >= UNANSWERED * 90'
mutant 'no trigger weakens a commit' src/run/update/connection.rs \
    update:a_trigger_that_has_its_transaction_not_wait_for_the_disk_is_overruled \
    '=> firm_commit(&waiting)' '=> HEARD_COMMIT.to_owned()'
mutant 'a value for all keys is read once' src/pg/update/constants.rs \
    update:now_is_one_moment_for_all_rows_wherever_in_the_value_it_stands \
    'Ok(rows) if rows[0].get(1) => Ok(rows[0].get(0)),' 'Ok(rows) if rows[0].get(1) => Ok(text.to_owned()),'
mutant 'no value is another one at each attempt' src/pg/update/catalog.rs \
    update:a_key_whose_value_is_another_time_at_each_attempt_fails_alone \
    'WHERE q.part <> 0)' 'WHERE false)'
mutant 'a row that holds what was assigned is done' src/pg/update/statement.rs \
    update:blanks_that_an_assignment_cuts_are_cut_before_a_row_is_compared \
    'Assign::Input(_) => column.assigned(&text),' \
    'Assign::Input(_) => format!("CAST({text} AS {})", column.assigned),'
mutant 'work finds its transaction, or changes nothing' src/pg/update/statement.rs \
    update:work_whose_begin_failed_changes_nothing_also_where_no_commit_goes_ahead \
    "pg_catalog.current_setting('transaction_deferrable')" "'on'"
mutant 'a cancelled wait for the standby is heard' src/pg/heard.rs \
    update:chunks_whose_wait_for_the_standby_is_always_cancelled_are_not_told_as_updated \
    'const WAITS: &str = "SyncRepWaitForLSN";' 'const WAITS: &str = "SyncRepWait";'
mutant 'another client is not cancelled in its next statement' src/run/external_backend.rs \
    live:what_a_foreign_client_does_next_is_not_cancelled \
    'method, Some(statement)' 'method, None'
mutant 'a session that has gone is no reason to refuse' src/run/owned_session.rs \
    live:a_session_that_ended_before_the_monitor_looked_is_a_lost_one_and_no_refusal \
    'client.simple_query("").await.map_err(|error| lost(error.into()))?;' ''
mutant 'a line that carries nothing any more is given up also at the start' src/pg/silence.rs \
    update:a_line_that_carries_nothing_any_more_at_the_start_costs_a_session \
    'if silent >= UNANSWERED {' 'if silent > UNANSWERED * 90 {'
mutant 'a session on which texts mean something else is replaced' src/pg/heard.rs \
    update:a_trigger_that_changes_what_texts_mean_costs_sessions_and_no_value \
    'if known.as_deref() != now {' 'if known.is_none() {'
mutant 'a session without its prepared statements is a lost one' src/run/update/connection.rs \
    update:a_trigger_that_takes_the_prepared_statements_costs_a_session_and_no_key \
    'is_err_and(Failure::is_unprepared)' 'is_err_and(|_| false)'
mutant 'a code that a trigger raises is no lost session' src/pg/failure.rs \
    update:a_key_that_a_trigger_refuses_fails_alone_whatever_code_it_raises \
    'code == NO_STATEMENT && server.where_().is_none()' 'code == NO_STATEMENT'
mutant 'values are compared by the operators of the server' src/pg/update/exact.rs \
    update:operators_of_a_schema_before_the_servers_own_have_no_say \
    'OPERATOR(pg_catalog.>) 1 ' 'OPERATOR(pg_catalog.>) 1000 '
mutant 'a dry run may look at a standby' src/pg/life.rs \
    update:a_dry_run_compares_on_a_standby \
    'if writes && row.get(2) {' 'if row.get(2) {'
mutant 'sessions that are lost over flushes are counted' src/decide/update/worker/outcome.rs \
    update:sessions_that_are_all_lost_over_a_flush_end_the_run_in_good_order \
    'self.link.last_session().filter(' 'self.link.session().filter('
mutant 'a session that stays behind is ended' src/run/update/connection.rs \
    update:a_session_that_stays_behind_with_its_locks_is_ended_and_the_run_goes_on \
    'Some(last) => last.end(&client, doubt).await,' 'Some(last) => Ok(drop((last, doubt))),'
mutant 'a busy pool of transactions is not taken for the server' src/run/update/before.rs \
    fleet:a_saturated_pool_of_transactions_is_asked_again_until_it_is_known_for_one \
    'Err(failure) => tracing::debug!(error = %failure, "whether a proxy pools is asked again"),' \
    'Err(_) => return Ok(()),'
mutant 'a pool is refused before anything is set in it' src/run/update/before.rs \
    fleet:a_pool_of_transactions_that_stays_saturated_is_refused_in_the_end \
    'refuse_pooling(&session, site, options).await?;' \
    'let _ = keep_exact(session.client()).await; refuse_pooling(&session, site, options).await?;'

# --- The invariants of lib.rs that only a server shows ----------------------------------------------------------------

mutant 'rows of a rejected attempt never reach the caller' src/run/work.rs \
    live:rows_of_a_rejected_attempt_never_reach_the_caller \
    'Mode::Accept if !held.is_empty() =>' '_ if !held.is_empty() =>'
mutant 'nothing is sent on a session while a request to cancel is not answered' src/run/race.rs \
    live:nothing_is_sent_on_a_session_while_a_request_to_cancel_is_not_answered \
    'let result = executor.stop(method).await;' \
    'let result = tokio::select! { biased; _ = &mut work => return Finish::Rejected(reason), it = executor.stop(method) => it };'
mutant 'slots are returned when the workers are gone' src/run/slots/lease.rs \
    fleet:a_worker_that_cannot_leave_keeps_the_slots_until_it_does \
    '&& left != Some(0)' '&& left.is_some_and(|left| left > 1_000)'
mutant 'a head of the queue that was stopped gives way' src/pg/slots.rs \
    fleet:a_head_of_the_queue_that_was_stopped_gives_way_and_stands_in_it_again_when_it_goes_on \
    'idle_limit(HEAD_IDLE)' 'idle_limit("0")'
mutant 'a statement without workers does not stand in the queue' src/run/slots/lease.rs \
    fleet:a_statement_without_workers_does_not_stand_in_the_queue \
    '|| wanted.demand() == 0 {' '{'
mutant 'a right to cancel that is missing is named' src/run/monitor.rs \
    live:a_monitor_is_refused_until_it_may_see_and_cancel_and_told_how \
    'Some("42501") => CancelResult::Denied' 'Some("42501") => CancelResult::Failed'
mutant 'a role that a function leaves set is not that of the cleanup' src/run/session_guard.rs \
    cli:a_role_that_a_function_leaves_set_is_not_that_of_the_cleanup \
    'client.batch_execute("RESET ROLE").await?;' ''
mutant 'who has unresolved keys is told to look first' cli/src/update/mod.rs \
    update:who_has_unresolved_keys_is_told_to_look_before_the_same_command_is_run_again \
    'if report.in_doubt.unresolved > 0 &&' 'if report.in_doubt.unresolved > 1_000_000 &&'
mutant 'a script is read in a time that grows with it' src/pg/plan/flaw.rs \
    lib:a_long_script_is_read_in_a_time_that_grows_with_it_and_not_with_its_square \
    'let place = statement.place(sql);' 'let place = statement.place(sql); let _ = place.to_string();'
mutant 'what nobody looked at for seconds is not verified' src/run/race.rs \
    lib:what_nobody_looked_at_is_not_verified \
    'self.looked_at.elapsed() > UNSEEN' 'self.looked_at.elapsed() > 1_000 * UNSEEN'
mutant 'a ceiling that is not raised leaves nothing to others' src/run/execution.rs \
    live:a_ceiling_that_cannot_be_raised_keeps_nobody_from_slots_that_are_free \
    'if capacity.raised { settings.left_of(all) } else { all }' 'if settings.ceiling.is_some() { settings.left_of(all) } else { all }'

# ----------------------------------------------------------------------------------------------------------------------

is_quick() {
    case ${TESTS[$1]%%:*} in core | core-* | lib | bin | house) true ;; *) false ;; esac
}

is_chosen() {
    case $CHOICE in
        all | list | check) true ;;
        quick) is_quick "$1" ;;
        live) ! is_quick "$1" ;;
        *) [[ "${PROMISES[$1]} ${FILES[$1]} ${TESTS[$1]}" == *"$CHOICE"* ]] ;;
    esac
}

# Copies what is built from, where it has changed: what has not need not be built again.
copy() {
    local from=$1 to=$2
    mkdir -p "$to"
    (cd "$from" && find -L . -type f) | while read -r file; do
        cmp -s "$from/$file" "$to/$file" && continue
        mkdir -p "$(dirname "$to/$file")"
        cp "$from/$file" "$to/$file"
    done
    (cd "$to" && find . -type f) | while read -r file; do
        [ -e "$from/$file" ] || rm "$to/$file"
    done
}

prepare_core() {
    copy src/decide "$CORE/src/decide"
    copy tests/core "$CORE/tests/core"
    copy tests/house "$CORE/tests/house"
    copy examples/fleet "$CORE/examples/fleet"
    cp Cargo.lock "$CORE/Cargo.lock"
    cat >"$CORE/Cargo.toml" <<'TOML'
[package]
name = "headcount"
version = "0.0.0"
edition = "2024"
autoexamples = false

[[test]]
name = "core"
path = "tests/core/main.rs"

[[test]]
name = "house"
path = "tests/house/main.rs"

[dependencies]
serde = { version = "1", features = ["derive"] }

[dev-dependencies]
fastrand = "2"
proptest = "1"

[workspace]
TOML
    printf '%s\n' '//! The pure core, alone.' 'pub mod decide;' 'pub use decide::attempt::Outcome;' >"$CORE/src/lib.rs"
}

prepare_whole() {
    for folder in src cli testkit tests examples benches dashboards docs; do
        [ -d $folder ] && copy $folder "$WHOLE/$folder"
    done
    for file in Cargo.toml Cargo.lock README.md clippy.toml docker-compose.yml Makefile; do
        cmp -s $file "$WHOLE/$file" || cp $file "$WHOLE/$file"
    done
}

# Runs a test; its log is in $LOG. Codes: 0 passed, 1 failed, 2 anything else.
run() {
    local binary=${1%%:*} name=${1#*:} place=$WHOLE target features=(--all-features)
    case $binary in
        core-unit) place=$CORE target=(--lib) ;;
        core | core-house) place=$CORE target=(--test "${binary#core-}") ;;
        lib) target=(--lib) ;;
        bin) target=(--bin headcount) ;;
        *) target=(--test "$binary") ;;
    esac
    [ "$place" = "$WHOLE" ] || features=()
    (
        cd "$place" || exit 2
        export CARGO_TARGET_DIR=$PLACE/target PROPTEST_MAX_SHRINK_ITERS=0
        timeout "$LIMIT" "$CARGO" test --quiet ${features[@]+"${features[@]}"} "${target[@]}" -- "$name"
    ) >"$LOG" 2>&1
    local code=$?
    if grep -q '^running 0 tests' "$LOG" && ! grep -q '^running [1-9]' "$LOG"; then
        return 2
    elif grep -q '^test result: FAILED' "$LOG"; then
        return 1
    fi
    [ $code = 0 ] && return 0
    # Too long is caught, too: a test that hangs does not pass.
    [ $code = 124 ] && grep -q '^running [1-9]' "$LOG" && return 1
    return 2
}

ROWS=() MISSED=0
row() {
    ROWS+=("$(printf '%-62s | %-28s | %-78s | %s' "$@")")
    printf '%s\n' "${ROWS[-1]}"
}

break_one() {
    local promise=${PROMISES[$1]} file=${FILES[$1]} test=${TESTS[$1]} old=${OLDS[$1]} new=${NEWS[$1]}
    local place=$WHOLE text
    case $test in core:* | core-*) place=$CORE ;; esac
    text=$(cat "$file"; printf x)
    text=${text/"$old"/"$new"}
    printf '%s' "${text%x}" >"$place/$file"
    run "$test"
    local result=$?
    cp "$file" "$place/$file"
    case $result in
        1) row "$promise" "$file" "$test" caught ;;
        0)
            row "$promise" "$file" "$test" 'NOT CAUGHT'
            MISSED=$((MISSED + 1))
            ;;
        *)
            row "$promise" "$file" "$test" 'DID NOT RUN'
            tail -n 20 "$LOG" >&2
            MISSED=$((MISSED + 1))
            ;;
    esac
}

CHOSEN=()
for place in "${!PROMISES[@]}"; do
    is_chosen "$place" && CHOSEN+=("$place")
done
[ ${#CHOSEN[@]} -gt 0 ] || { echo "no mutation has $CHOICE" >&2; exit 2; }

if [ "$CHOICE" = list ]; then
    # One line, and no end of a cell.
    cell() {
        local text
        text=$(tr -s '[:space:]' ' ' <<<"$1")
        text=${text# } text=${text% }
        printf '%s' "${text//|/\\|}"
    }
    echo '| promise | test | mutation |'
    echo '|---|---|---|'
    for place in "${CHOSEN[@]}"; do
        printf '| %s | `%s` | `%s`: `` %s `` becomes `` %s `` |\n' "${PROMISES[$place]}" "${TESTS[$place]/:/: }" \
            "${FILES[$place]}" "$(cell "${OLDS[$place]}")" "$(cell "${NEWS[$place]:-nothing}")"
    done
    exit 0
fi

# A text that is not there exactly once has gone stale.
stale=0
for place in "${CHOSEN[@]}"; do
    file=${FILES[$place]} old=${OLDS[$place]}
    text=$(cat "$file")
    without=${text//"$old"/}
    count=$(((${#text} - ${#without}) / ${#old}))
    [ $count = 1 ] && continue
    echo "$file: what is to be replaced is there $count times: $old" >&2
    stale=1
done
[ $stale = 0 ] || exit 1
[ "$CHOICE" != check ] || exit 0

prepare_core
for place in "${CHOSEN[@]}"; do
    case ${TESTS[$place]} in core:* | core-*) ;; *) prepare_whole && break ;; esac
done

# Without a mutation each of the tests passes.
for test in $(for place in "${CHOSEN[@]}"; do echo "${TESTS[$place]}"; done | sort -u); do
    run "$test" && continue
    echo "$test does not pass, or is not there, without any mutation:" >&2
    tail -n 40 "$LOG" >&2
    exit 1
done

for place in "${CHOSEN[@]}"; do
    break_one "$place"
done
echo "${#CHOSEN[@]} mutations, $MISSED not caught"
[ $MISSED = 0 ]
