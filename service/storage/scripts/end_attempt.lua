-- End the attempt that holds a job.
-- KEYS      as in job.lua
-- ARGV[4]   the attempt
-- ARGV[5]   the worker
-- ARGV[6]   how: 'succeed', id of the resulting model, progress
--           'fail', code, message
--           'release', the status that the worker leaves it for: queued, paused or cancelled
--           'died', the reason, deaths without progress after which the job fails
-- Returns   {'ok', the job's fields}; {'fenced'} where another attempt has the job, or none; {'state', its status} where that
--           does not allow it.
-- Invariant: one result; a job ends where its owner wants it, whatever the worker thought when it let go.
local how = ARGV[6]
if not holds(ARGV[4], ARGV[5]) then
  local sent_twice = how == 'succeed' and get('attempt') == ARGV[4] and get('status') == 'succeeded' and get('result') == ARGV[7]
  return sent_twice and done() or {'fenced'}
end
local status = get('status')
if how == 'succeed' then
  redis.call('HSET', JOB, 'result', ARGV[7], 'progress', ARGV[8])
  move('succeeded', {result = ARGV[7]})
elseif how == 'fail' then
  fail(ARGV[7], ARGV[8])
elseif how == 'died' then
  bury(ARGV[7], tonumber(ARGV[8]))
else
  local to = ARGV[7]
  if status == 'cancelling' then
    to = 'cancelled'
  elseif to ~= 'cancelled' then
    to = get('pause_requested') and 'paused' or 'queued'
  end
  if not move(to) then
    return refused()
  end
end
return done()
