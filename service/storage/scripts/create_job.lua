-- Record a job and put it into the queue, in one step.
-- KEYS      as in job.lua, then: the data set's hash; the hash of exports' jobs by name; the idempotency key's string, where
--           there is one
-- ARGV[4]   the job's id
-- ARGV[5]   the record, JSON
-- ARGV[6]   the model's id, or ''
-- ARGV[7]   the data set's id, or ''
-- ARGV[8]   digest of the request, or '' without an idempotency key
-- ARGV[9]   seconds for which the idempotency key is kept
-- ARGV[10]  the name of the learngene that is to be trained, or ''
-- ARGV[11]  the name of the export that is to be made, or ''
-- ARGV[12]  the id of the job of that export which this one is to take the place of, or ''
-- Returns   {'ok', the job's fields}; {'same', the id of the job that the key made before, or that another caller made of the
--           export}; {'reused'} where the key came with another request; {'no_dataset'}; {'in_training', the id of the job} that
--           trains a learngene of that name.
-- Invariant: all of it or nothing; an export has one job at a time; later jobs have later times, even where the clock was set
-- back.
if redis.call('EXISTS', JOB) == 1 then
  return done() -- the client sent this very call twice: the first answer was lost
end
local dataset, exports, idempotency, request = KEYS[FIRST_OWN_KEY], KEYS[FIRST_OWN_KEY + 1], KEYS[FIRST_OWN_KEY + 2], ARGV[8]
if request ~= '' then
  local before = redis.call('GET', idempotency)
  if before then
    before = cjson.decode(before)
    if before.request ~= request then
      return {'reused'}
    end
    return {'same', before.job}
  end
end
if ARGV[7] ~= '' and redis.call('HEXISTS', dataset, 'record') == 0 then
  return {'no_dataset'}
end
local name = ARGV[10]
if name ~= '' then
  local training = redis.call('HGET', IN_TRAINING, name)
  if training then
    return {'in_training', training}
  end
  redis.call('HSET', IN_TRAINING, name, ARGV[4])
  redis.call('HSET', JOB, 'learngene', name)
end
if ARGV[11] ~= '' then
  local made = redis.call('HGET', exports, ARGV[11])
  if made and made ~= ARGV[12] then
    return {'same', made}
  end
  redis.call('HSET', exports, ARGV[11], ARGV[4])
end
local newest = redis.call('ZREVRANGE', JOBS, 0, 0, 'WITHSCORES')
local created = NOW
if newest[2] and tonumber(newest[2]) >= created then
  created = tonumber(newest[2]) + 1
end
redis.call('HSET', JOB, 'id', ARGV[4], 'record', ARGV[5], 'model', ARGV[6], 'dataset', ARGV[7], 'status', 'queued',
  'attempt', '0', 'deaths', '0', 'created_at', text(created))
redis.call('ZADD', JOBS, text(created), ARGV[4])
redis.call('ZADD', STATUSES.queued.key, text(created), ARGV[4])
if ARGV[7] ~= '' then
  redis.call('SADD', DATASET_JOBS, ARGV[4])
end
enter_queue()
append_event('status', cjson.encode({status = 'queued', attempt = 0}))
if request ~= '' then
  redis.call('SET', idempotency, cjson.encode({job = ARGV[4], request = request}), 'EX', ARGV[9])
end
return done()
