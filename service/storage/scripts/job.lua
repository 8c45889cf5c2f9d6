-- What every script on one job begins with: this text stands before theirs.
-- KEYS[1]   hash        the job; its fields are described in job_store.py
-- KEYS[2]   stream      its events
-- KEYS[3]   list        the job's lane of the queue: ids of messages, in the form of dramatiq's dispatch.lua
-- KEYS[4]   hash        the lane's messages by id, likewise
-- KEYS[5]   set         the jobs that use the job's data set and have not ended; of no data set, it is empty
-- KEYS[6]   sorted set  all jobs by time of creation
-- KEYS[7]   hash        names of learngenes in training, each with its job's id
-- KEYS[8]   list        the other lane, in which an earlier version of this service may have put the job
-- KEYS[9]   hash        its messages
-- KEYS[10…] sorted set  the jobs of each status, in the order of ARGV[1]
-- ARGV[1]   JSON: [[status, [the statuses that may follow]], …], the one table of transitions
-- ARGV[2]   id of a fresh message, used where the job enters the queue
-- ARGV[3]   that message
-- Invariants: a job stands in the set of its status and in no other; it is in the queue's messages while it is queued; its data
-- set counts it, and the name of the learngene that it trains is its own, until it ends; events are numbered from 1 without gaps; every change of status has its event.
local JOB, EVENTS, QUEUE, MESSAGES, DATASET_JOBS, JOBS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local IN_TRAINING, OTHER_QUEUE, OTHER_MESSAGES = KEYS[7], KEYS[8], KEYS[9]
local STATUSES = {}
local FIRST_OWN_KEY = 10
for _, row in ipairs(cjson.decode(ARGV[1])) do
  local following, count = {}, 0
  for _, status in ipairs(row[2]) do
    following[status] = true
    count = count + 1
  end
  STATUSES[row[1]] = {key = KEYS[FIRST_OWN_KEY], following = following, terminal = count == 0}
  FIRST_OWN_KEY = FIRST_OWN_KEY + 1
end

local clock = redis.call('TIME')
local NOW = tonumber(clock[1]) * 1000000 + tonumber(clock[2]) -- microseconds since 1970

local function text(number) -- Lua's own form of a large number is 1e+15
  return string.format('%.0f', number)
end

local function get(field)
  return redis.call('HGET', JOB, field)
end

local function get_number(field)
  return tonumber(get(field) or '0')
end

local function append_event(kind, facts)
  local seq = text(redis.call('HINCRBY', JOB, 'seq', 1))
  redis.call('XADD', EVENTS, seq .. '-0', 'at', text(NOW), 'kind', kind, 'facts', facts)
end

local function leave_queue()
  local message = get('message')
  if message then
    redis.call('HDEL', MESSAGES, message)
    redis.call('LREM', QUEUE, 1, message)
    redis.call('HDEL', OTHER_MESSAGES, message)
    redis.call('LREM', OTHER_QUEUE, 1, message)
    redis.call('HDEL', JOB, 'message', 'sent_at')
  end
end

local function enter_queue()
  leave_queue()
  redis.call('HSET', MESSAGES, ARGV[2], ARGV[3])
  redis.call('RPUSH', QUEUE, ARGV[2])
  redis.call('HSET', JOB, 'message', ARGV[2], 'sent_at', text(NOW))
end

local function is_held(status)
  return status == 'running' or status == 'cancelling'
end

-- Give the job another status, or return false where the table forbids it. `facts` joins the event.
local function move(to, facts)
  local from = get('status')
  if not STATUSES[from].following[to] then
    return false
  end
  local id = get('id')
  redis.call('HSET', JOB, 'status', to)
  redis.call('ZREM', STATUSES[from].key, id)
  redis.call('ZADD', STATUSES[to].key, get('created_at'), id)
  if not is_held(to) then
    redis.call('HDEL', JOB, 'worker', 'lease', 'token', 'pause_requested')
  elseif to == 'cancelling' then
    redis.call('HDEL', JOB, 'pause_requested')
  end
  if to == 'queued' then
    enter_queue()
  elseif not is_held(to) then
    leave_queue()
  end
  if STATUSES[to].terminal then
    redis.call('SREM', DATASET_JOBS, id)
    local learngene = get('learngene')
    if learngene and redis.call('HGET', IN_TRAINING, learngene) == id then
      redis.call('HDEL', IN_TRAINING, learngene)
    end
    redis.call('HSET', JOB, 'finished_at', text(NOW))
  end
  facts = facts or {}
  facts.status = to
  facts.attempt = get_number('attempt')
  append_event('status', cjson.encode(facts))
  return true
end

local function fail(code, message)
  local found = {code = code, message = message}
  redis.call('HSET', JOB, 'error', cjson.encode(found))
  return move('failed', {error = found})
end

-- An attempt ended with its worker: count that, and send the job where it belongs.
local function bury(reason, max_deaths)
  if get('status') == 'cancelling' then
    return move('cancelled', {reason = reason})
  end
  local deaths = redis.call('HINCRBY', JOB, 'deaths', 1)
  if deaths >= max_deaths then
    local times = deaths == 1 and 'once' or text(deaths) .. ' times in a row'
    return fail('worker_died', 'its worker died ' .. times .. ' without progress in between; the last time: ' .. reason)
  end
  return move(get('pause_requested') and 'paused' or 'queued', {reason = reason})
end

-- What the job held longer than its lease is taken from its worker. Returns whether that was so.
local function bury_if_lapsed(reason, max_deaths)
  if is_held(get('status')) and get_number('lease') < NOW then
    bury(reason, max_deaths)
    return true
  end
  return false
end

-- Whether the job is held by that attempt of that worker.
local function holds(attempt, worker)
  return is_held(get('status')) and get('attempt') == attempt and get('worker') == worker
end

local function done()
  return {'ok', redis.call('HGETALL', JOB)}
end

local function refused()
  return {'state', get('status')}
end

