-- Take a queued job, or one whose worker is silent for too long.
-- KEYS      as in job.lua
-- ARGV[4]   the worker
-- ARGV[5]   a token of this very call, by which a call that was sent twice is known
-- ARGV[6]   how long the worker may be silent, in microseconds
-- ARGV[7]   deaths without progress after which the job fails
-- ARGV[8]   what is said of a silent worker
-- Returns   {'ok', the job's fields}, or {'none'} where it is not to be had.
-- Invariant: of many callers at most one gets the job, and the attempt's number was never given before.
if get('token') == ARGV[5] then
  return done()
end
bury_if_lapsed(ARGV[8], tonumber(ARGV[7]))
if get('status') ~= 'queued' then
  return {'none'}
end
redis.call('HINCRBY', JOB, 'attempt', 1)
redis.call('HSET', JOB, 'worker', ARGV[4], 'token', ARGV[5], 'lease', text(NOW + tonumber(ARGV[6])))
redis.call('HSETNX', JOB, 'started_at', text(NOW))
move('running', {worker = ARGV[4]})
return done()
