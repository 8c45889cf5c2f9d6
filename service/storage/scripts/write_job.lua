-- Write what the worker that holds a job says of it; that renews its lease.
-- KEYS      as in job.lua, then: the list of its checkpoints
-- ARGV[4]   the attempt
-- ARGV[5]   the worker
-- ARGV[6]   how long the worker may be silent, in microseconds
-- ARGV[7]   what: 'beat'
--           'started', the settings used, progress, its step
--           'report', progress, its step, the event's kind or '', its facts, how many progress events an age
--           'save_state', object key, step
--           'add_checkpoint', the checkpoint, its epoch, the event's facts
-- Returns   {'ok', …}, …: what the worker is to do (beat), the key that was replaced or '' (save_state), 1 where it was new
--           (add_checkpoint); {'fenced'} where another attempt has the job, or none.
-- Invariant: nothing at all is written for an attempt that does not hold the job.
if not holds(ARGV[4], ARGV[5]) then
  return {'fenced'}
end
local what = ARGV[7]
redis.call('HSET', JOB, 'lease', text(NOW + tonumber(ARGV[6])))

local function is_above(field, number)
  if tonumber(number) <= tonumber(get(field) or '-1') then
    return false
  end
  redis.call('HSET', JOB, field, number)
  return true
end

local function made_progress()
  redis.call('HSET', JOB, 'deaths', '0')
end

if what == 'beat' then
  if get('status') == 'cancelling' then
    return {'ok', 'cancel'}
  end
  return {'ok', get('pause_requested') and 'pause' or 'go_on'}
elseif what == 'started' then
  redis.call('HSETNX', JOB, 'settings_used', ARGV[8])
  redis.call('HSET', JOB, 'progress', ARGV[9])
  redis.call('HSETNX', JOB, 'top_step', ARGV[10])
elseif what == 'report' then
  redis.call('HSET', JOB, 'progress', ARGV[8])
  if is_above('top_step', ARGV[9]) then
    made_progress()
  end
  local kind = ARGV[10]
  if kind == 'progress' then
    -- The older the job, the longer from one to the next: their number grows with the logarithm of its age.
    local age, since = NOW - get_number('started_at'), NOW - get_number('last_progress_at')
    if since * tonumber(ARGV[12]) < age then
      kind = ''
    else
      redis.call('HSET', JOB, 'last_progress_at', text(NOW))
    end
  end
  if kind ~= '' then
    append_event(kind, ARGV[11])
  end
elseif what == 'save_state' then
  local replaced = get('resume_key')
  redis.call('HSET', JOB, 'resume_key', ARGV[8])
  if is_above('saved_step', ARGV[9]) then
    made_progress()
  end
  return {'ok', replaced ~= ARGV[8] and replaced or ''}
elseif what == 'add_checkpoint' then
  if not is_above('checkpoint_epoch', ARGV[9]) then
    return {'ok', 0} -- an attempt before this one came as far
  end
  redis.call('RPUSH', KEYS[FIRST_OWN_KEY], ARGV[8])
  append_event('checkpoint', ARGV[10])
  made_progress()
  return {'ok', 1}
end
return {'ok', ''}
