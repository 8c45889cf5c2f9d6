-- Do what a user asks of a job. Asking twice is no error.
-- KEYS      as in job.lua
-- ARGV[4]   'cancel', 'pause' or 'resume'
-- Returns   {'ok', the job's fields}, or {'state', its status} where that does not allow it.
-- Invariant: a job that a worker holds is only marked; the worker learns of it with its next heartbeat.
local status, command = get('status'), ARGV[4]
if command == 'cancel' then
  if status == 'cancelling' or status == 'cancelled' then
    return done()
  end
  if not move(status == 'running' and 'cancelling' or 'cancelled') then
    return refused()
  end
elseif command == 'pause' then
  if status == 'paused' or (status == 'running' and get('pause_requested')) then
    return done()
  end
  if status == 'running' then
    redis.call('HSET', JOB, 'pause_requested', '1')
    append_event('log', cjson.encode({message = 'pause requested'}))
  elseif not move('paused') then
    return refused()
  end
elseif command == 'resume' then
  if status == 'running' then
    if redis.call('HDEL', JOB, 'pause_requested') == 1 then
      append_event('log', cjson.encode({message = 'pause withdrawn'}))
    end
  elseif status ~= 'queued' then
    if not move('queued') then
      return refused()
    end
    redis.call('HSET', JOB, 'deaths', '0') -- its owner wants it tried again
  end
end
return done()
