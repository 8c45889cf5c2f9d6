-- Take a job from a worker that is silent for too long, and send a queued job's message again where it was lost.
-- KEYS      as in job.lua
-- ARGV[4]   deaths without progress after which the job fails
-- ARGV[5]   what is said of a silent worker
-- ARGV[6]   how long a message may be on its way from the queue to a claim, in microseconds
-- Returns   {'ok', 1} where something was done, {'ok', 0} otherwise.
-- Invariant: nothing happens to a job whose worker lives or whose message waits in the job's lane; from the other it moves
-- there. A message that left the queue and led to no claim counts as lost: a worker that was cut off between taking and reading
-- it would keep it for ever.
if bury_if_lapsed(ARGV[5], tonumber(ARGV[4])) then
  return {'ok', 1}
end
if get('status') ~= 'queued' then
  return {'ok', 0}
end
local message = get('message')
local lost = not message or redis.call('HEXISTS', MESSAGES, message) == 0
if not lost and get_number('sent_at') + tonumber(ARGV[6]) < NOW then
  lost = not redis.call('LPOS', QUEUE, message)
end
if not lost then
  return {'ok', 0}
end
enter_queue()
return {'ok', 1}
